"""What an engine that looks for personal data answers, and how answers that overlap are brought in order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Finding(NamedTuple):
    """Personal data between two byte offsets of what was searched."""

    start: int
    end: int
    kind: str
    """As in the configuration; in capitals it is the placeholder's name."""


class Engine(Protocol):
    """Something that finds personal data."""

    kinds: frozenset[str]
    """Every kind that it may find."""
    at_once_bytes: int
    """Records up to this size may be searched on the event loop: a thread would cost more."""

    def find(self, data: bytes) -> list[Finding]:
        """
        Args:
            data: UTF-8 texts, joined by NUL. A finding that spans several texts is cut at their ends.
        Returns:
            Findings in any order; where two overlap, the first one of the list counts.
        """
        ...


class Engines:
    """Several engines; where two findings overlap, that of the earlier engine counts."""

    def __init__(self, engines: Iterable[Engine]) -> None:
        self._engines = tuple(engines)
        self.at_once_bytes = min(engine.at_once_bytes for engine in self._engines)
        self.kinds: frozenset[str] = frozenset().union(*(engine.kinds for engine in self._engines))

    def find(self, data: bytes) -> list[Finding]:
        return [finding for engine in self._engines for finding in engine.find(data)]


def apart(findings: list[Finding], size: int) -> list[Finding]:
    """The findings without those that overlap an earlier one of the list, in the order of their places.

    Args:
        size: of what was searched, in bytes.
    """
    if len(findings) < 2:
        return findings
    taken = bytearray(size)
    kept = []
    for finding in findings:
        if taken.find(1, finding.start, finding.end) < 0:
            taken[finding.start : finding.end] = b"\1" * (finding.end - finding.start)
            kept.append(finding)
    return sorted(kept)
