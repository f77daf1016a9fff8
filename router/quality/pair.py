"""What graders get, and what they give back."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from policies.record import Grade, Usage


@dataclass(frozen=True, slots=True)
class Pair:
    """Both models' answers to one request."""

    decision_id: str
    tags: Mapping[str, str]
    request: Mapping[str, Any]
    """As a chat completion."""
    student: str
    teacher: str
    label: str | None = None
    """The right answer, where somebody has told it."""


class Verdict(NamedTuple):
    """What a grader thinks of a pair, and what asking it has cost."""

    grade: Grade | None
    """None: the grader has nothing to say about such a request."""
    usage: Usage | None = None
    cost_usd: float | None = None


SILENT = Verdict(None)


class Grader(Protocol):
    """Grades pairs. Never raises for what an answer holds."""

    def grade(self, pair: Pair) -> Awaitable[Verdict]: ...
