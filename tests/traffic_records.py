"""Records and segments for tests that need a traffic log."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from policies.base import RouteDecision
from policies.record import (
    SCHEMA_VERSION,
    AnyRecord,
    DecisionRecord,
    FeedbackRecord,
    Grade,
    ShadowRecord,
    Usage,
    encode,
)
from policies.traffic.segments import frame

NOON_S = 1_763_812_800.0
"""2025-11-22 12:00 UTC."""
DAY_S = 86_400.0


def decision_id(number: int) -> str:
    return f"{'ab' * 12}{number:08x}"


def decision(number: int, **fields: Any) -> DecisionRecord:
    """A record of an answered request, captured in full; the number makes its id and its second."""
    values: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "decision_id": decision_id(number),
        "created_s": NOON_S + number,
        "endpoint": "/v1/chat/completions",
        "stream": False,
        "requested_model": "auto",
        "decision": RouteDecision(route="teacher", reason="multi_step", score=0.7, policy="long_reasoning"),
        "route": "teacher",
        "reason": "multi_step",
        "status": 200,
        "outcome": "ok",
        "student": "student",
        "teacher": "teacher",
        "usage": Usage(prompt_tokens=100, completion_tokens=10),
        "cost_usd": 0.004,
        "counterfactual_cost_usd": 0.004,
        "latency_s": 0.5,
        "overhead_s": 0.001,
        "capture": "full",
        "distillation": "allowed",
        "request": f'{{"model":"auto","messages":[{{"role":"user","content":"question {number}"}}]}}',
        "completion": f"answer {number}",
    }
    return DecisionRecord(**(values | fields))


def judgement(number: int, **fields: Any) -> FeedbackRecord:
    values: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "decision_id": decision_id(number),
        "created_s": NOON_S + number + 1,
    }
    return FeedbackRecord(**(values | fields))


def shadow(number: int, **fields: Any) -> ShadowRecord:
    """What the teacher answered to a request that the student had answered."""
    values: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "decision_id": decision_id(number),
        "created_s": NOON_S + number + 2,
        "student": "student",
        "teacher": "teacher",
        "delivered": "student",
        "asked": "teacher",
        "propensity": 0.1,
        "status": "ok",
        "completion": f"shadow answer {number}",
        "usage": Usage(prompt_tokens=100, completion_tokens=12),
        "cost_usd": 0.005,
        "grades": (Grade(grader="exact/teacher", student=1.0, teacher=1.0),),
    }
    return ShadowRecord(**(values | fields))


def write_segment(folder: Path, name: str, records: Iterable[AnyRecord]) -> Path:
    """A segment that no process has open."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.seg"
    path.write_bytes(b"".join(frame(encode(record)) for record in records))
    return path
