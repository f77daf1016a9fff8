"""Traffic logs, and stores for them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from router.log.compaction import compact
from tests.traffic_records import DAY_S, NOON_S, decision, judgement, write_segment


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Ten days: ten answers of the teacher, eight of the student, and what is neither."""
    folder = tmp_path / "traffic"
    teacher = [decision(n, created_s=NOON_S + n * DAY_S) for n in range(11)]
    student = [
        decision(100 + n, route="student", cost_usd=0.0001, created_s=NOON_S + n * DAY_S, stream=True) for n in range(8)
    ]
    others = [
        decision(200, purpose="eval"),
        decision(201, distillation="denied"),
        decision(202, distillation="conditional"),
        decision(203, capture="metadata", request=None, completion=None),
        decision(204, outcome="backend_error", status=503, route=None, usage=None, cost_usd=None,
                 counterfactual_cost_usd=None, completion=None),
    ]  # fmt: skip
    feedback = [
        judgement(1, score=1.0, created_s=NOON_S),
        judgement(1, score=0.5),
        judgement(2, label="x"),
        judgement(999, score=1.0),
    ]
    write_segment(folder, "a", [*teacher, *feedback])
    compact(folder, progress=lambda _: None)
    write_segment(folder, "b", [*student, *others])
    return folder


@pytest.fixture
def store() -> Iterator[str]:
    name = f"memory://log-{uuid.uuid4().hex}"
    yield name
    files = fsspec.filesystem("memory")
    if files.exists(name):
        files.rm(name, recursive=True)
