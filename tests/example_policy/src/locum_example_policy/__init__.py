"""`tag_route`: the teacher answers requests whose tag has one of the given values."""

from __future__ import annotations

from collections.abc import Sequence

from policies import RequestFeatures, RouteDecision, escalate

__all__ = ["TagRoute"]


class TagRoute:
    """A policy needs nothing but `decide`; `reasons` lets its reason appear in metrics by name.

    Args:
        tag: the key in the request's `router.tags`.
        teacher_values: its values that go to the teacher.
    """

    reasons = frozenset({"tagged"})

    def __init__(self, tag: str, teacher_values: Sequence[str]) -> None:
        if isinstance(teacher_values, str) or not teacher_values:
            raise ValueError("teacher_values must be a list with at least one value")
        self._tag = tag
        self._values = frozenset(teacher_values)

    def decide(self, features: RequestFeatures) -> RouteDecision | None:
        if features.tags.get(self._tag) in self._values:
            return escalate("tagged", score=1.0, threshold=0.5)
        return None
