"""What a document would have done to the requests that were logged last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policies.base import RequestFeatures, RouteDecision
from policies.chain import PolicyChain
from policies.record import DecisionRecord, encode
from policies.registry import build
from policies.traffic.segments import frame
from router.documents import effect as effect_module
from router.documents.effect import effect_on, last_decisions


def record(number: int, confidence: float | None, *, policy: str = "default") -> DecisionRecord:
    return DecisionRecord(
        schema=1, decision_id=f"{number:032x}", created_s=float(number), endpoint="/v1/chat/completions", stream=False,
        requested_model="auto", decision=RouteDecision(route="student", reason="default", policy=policy),
        features=RequestFeatures(
            prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1,
            retrieval_confidence=confidence,
        ),
        reason="default", status=200, outcome="ok", student="s", teacher="t", latency_s=1.0, overhead_s=0.0,
        capture="metadata",
    )  # fmt: skip


def write(folder: Path, name: str, records: list[DecisionRecord], *, age_s: float = 0) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.seg"
    path.write_bytes(b"".join(frame(encode(each)) for each in records) + b"00000000 unfinished")
    os.utime(path, (1_000_000 - age_s, 1_000_000 - age_s))


def chain(escalate_below: float) -> PolicyChain:
    policy = build("retrieval_confidence", {"escalate_below": escalate_below})
    return PolicyChain([policy], version="x", default_route="student", on_policy_error="teacher")  # type: ignore[list-item]


async def test_effect_counts_the_requests_that_would_go_elsewhere(tmp_path: Path) -> None:
    confidences = [0.1, 0.5, 0.6, 0.7, None]
    write(tmp_path / "log", "a", [record(n, confidence) for n, confidence in enumerate(confidences)])
    effect = await effect_on(tmp_path / "log", chain(0.55), chain(0.65), limit=100)
    assert (effect.records, effect.changed, effect.without_text) == (5, 1, 5)
    assert (effect.teacher_share_before, effect.teacher_share_after) == (0.4, 0.6)
    assert effect.moves == {"student -> teacher: low_confidence": 1}


async def test_forced_requests_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "log", "a", [record(1, 0.1, policy="request"), record(2, 0.9)])
    assert (await effect_on(tmp_path / "log", chain(0.5), chain(0.5), limit=100)).records == 1


def test_newest_records_come_first_when_there_are_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "log", "a", [record(1, 0.1), record(2, 0.1)], age_s=60)
    write(tmp_path / "log", "b", [record(3, 0.1), record(4, 0.1)])
    assert [int(each.decision_id, 16) for each in last_decisions(tmp_path / "log", 3)] == [4, 3, 2]
    monkeypatch.setattr(effect_module, "MAX_BYTES", 1)
    assert [int(each.decision_id, 16) for each in last_decisions(tmp_path / "log", 3)] == [4, 3]


async def test_there_is_no_effect_when_there_is_no_log(tmp_path: Path) -> None:
    effect = await effect_on(tmp_path / "none", chain(0.5), chain(0.6), limit=10)
    assert (effect.records, effect.teacher_share_after) == (0, None)
