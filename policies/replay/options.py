"""Which numbers of a policy can be turned, and how far: from the limits of their own definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import annotated_types
from pydantic import BaseModel

from policies.base import Policy, Reviewer
from policies.governor import Governor

WIDEST = 4.0
"""A number without an upper limit is offered up to so many times its value."""


def tunable(policy: Policy | Reviewer | Governor, current: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Its numeric options: name, type, value in force, range and meaning."""
    if not isinstance(policy, BaseModel):
        return []
    found = []
    for name, info in type(policy).model_fields.items():
        kind = _number_type(info.annotation)
        if kind is None:
            continue
        value = getattr(policy, name)
        if value is None:
            value = getattr(policy, "threshold", None) if name == "escalate_above" else None
        low, high = _limits(info.metadata)
        if high is None:
            high = max(1.0, WIDEST * float(value or 1))
        found.append(
            {
                "option": name,
                "type": "integer" if kind is int else "number",
                "value": value,
                "min": kind(low if low is not None else 0),
                "max": kind(high),
                "description": info.description or "",
            }
        )
    return found


def _number_type(annotation: Any) -> type[int] | type[float] | None:
    kinds = set(getattr(annotation, "__args__", (annotation,))) - {type(None)}
    if kinds == {float}:
        return float
    return int if kinds == {int} else None


def _limits(metadata: Sequence[Any]) -> tuple[float | None, float | None]:
    low: float | None = None
    high: float | None = None
    for each in metadata:
        if isinstance(each, annotated_types.Ge):
            low = float(each.ge)  # type: ignore[arg-type]
        elif isinstance(each, annotated_types.Gt):
            low = float(each.gt)  # type: ignore[arg-type]
        elif isinstance(each, annotated_types.Le):
            high = float(each.le)  # type: ignore[arg-type]
        elif isinstance(each, annotated_types.Lt):
            high = float(each.lt)  # type: ignore[arg-type]
    return low, high
