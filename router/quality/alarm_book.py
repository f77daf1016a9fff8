"""Which alarms of drift have rung, which fingerprints the teacher has stated, and what was acknowledged of it.

Drift detection knows the present: an alarm ends when the window has moved on, and a restart or another student begins
anew. A certificate that was voided must not become valid by that, so what happened is written into a book that all
processes and replicas share, in the store, and in a file for a store that loses it. Books are merged by the later of
what two of them say: whoever was apart for a while brings what it saw, and nothing is taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from policies.certificate import Acknowledged
from policies.quality.drift import DETECTORS, Detector, Monitor

SCHEMA = 1
MAX_STUDENTS, MAX_TEACHERS, MAX_FINGERPRINTS, MAX_ACKNOWLEDGED = 64, 16, 64, 256
"""The newest are kept."""
FINGERPRINTS: Detector = "teacher_fingerprint"

T = TypeVar("T")


class Ring(msgspec.Struct, frozen=True):
    """The last alarm of one detector."""

    began_s: float
    """When the look was taken that found it."""
    ended_s: float = 0.0
    """When a later look did not; 0: it rings."""


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """Never changed: `noted` and `merged` make new ones. JSON reads it back as it is."""

    schema: int = SCHEMA
    rings: dict[str, dict[str, Ring]] = {}
    """By student and detector."""
    fingerprints: dict[str, dict[str, float]] = {}
    """By the teacher's model name: new to drift detection, and when they were first seen."""
    accepted_s: float = 0.0
    """When somebody last told drift detection to take the traffic for normal as it is."""
    acknowledged: dict[str, Acknowledged] = {}
    """By the sha256 of the certificate."""

    @property
    def last_s(self) -> float:
        """When the last thing happened."""
        rings = [ring.began_s for each in self.rings.values() for ring in each.values()]
        seen = [at_s for each in self.fingerprints.values() for at_s in each.values()]
        return max([self.accepted_s, *rings, *seen])


def noted(book: Book, monitor: Monitor, teacher: str) -> Book:
    """The book with what drift detection says now.

    Args:
        teacher: model name of the one whose fingerprints they are.
    """
    before = book.rings.get(monitor.student, {})
    after = [(name, _ring(before.get(name), name, monitor)) for name in DETECTORS]
    rings: dict[str, Ring] = {name: ring for name, ring in after if ring is not None}
    new = Book(
        rings={monitor.student: rings} if rings else {},
        fingerprints={teacher: monitor.new_fingerprints} if monitor.new_fingerprints else {},
        accepted_s=monitor.asked_s,
    )
    return merged(book, new)


def merged(one: Book, other: Book) -> Book:
    """What either of them knows."""
    rings = {
        student: _merged_rings(one.rings.get(student, {}), other.rings.get(student, {}))
        for student in one.rings | other.rings
    }
    fingerprints = {
        teacher: _newest(
            _first_seen(one.fingerprints.get(teacher, {}), other.fingerprints.get(teacher, {})),
            lambda at_s: at_s,
            MAX_FINGERPRINTS,
        )
        for teacher in one.fingerprints | other.fingerprints
    }
    acknowledged = dict(one.acknowledged)
    for sha256, said in other.acknowledged.items():
        if sha256 not in acknowledged or said.at_s > acknowledged[sha256].at_s:
            acknowledged[sha256] = said
    return Book(
        rings=_newest(rings, lambda each: max(ring.began_s for ring in each.values()), MAX_STUDENTS),
        fingerprints=_newest(fingerprints, lambda each: max(each.values()), MAX_TEACHERS),
        accepted_s=max(one.accepted_s, other.accepted_s),
        acknowledged=_newest(acknowledged, lambda each: each.at_s, MAX_ACKNOWLEDGED),
    )


def _ring(before: Ring | None, detector: Detector, monitor: Monitor) -> Ring | None:
    """The last alarm of a detector after what the monitor says, which may be older than the book."""
    if detector == FINGERPRINTS:
        return None  # they are noted one by one
    finding, looked_s = monitor.findings.get(detector), monitor.looked_s
    rings = finding is not None and finding.alarm
    if before is not None and not before.ended_s and monitor.started_s > before.began_s:
        before = Ring(before.began_s, monitor.started_s)  # what it was compared with is gone: the next one is another
    if rings and (before is None or 0.0 < before.ended_s < looked_s):
        return Ring(looked_s)
    if before is not None and not rings and not before.ended_s and looked_s > before.began_s:
        return Ring(before.began_s, looked_s)
    return before


def _merged_rings(one: dict[str, Ring], other: dict[str, Ring]) -> dict[str, Ring]:
    found = dict(one)
    for detector, ring in other.items():
        mine = found.get(detector, ring)
        found[detector] = max(mine, ring, key=lambda each: (each.began_s, each.ended_s))
    return found


def _first_seen(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {name: min(each[name] for each in (one, other) if name in each) for name in one | other}


def _newest(values: dict[str, T], at_s: Callable[[T], float], limit: int) -> dict[str, T]:
    if len(values) <= limit:
        return values
    kept = sorted(values, key=lambda name: at_s(values[name]), reverse=True)[:limit]
    return {name: values[name] for name in kept}
