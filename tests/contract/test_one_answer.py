"""Whatever the reviewers say and whichever model breaks: the client reads one answer, or the beginning of one."""

from __future__ import annotations

import itertools
import json
from random import Random

import pytest

from tests.contract.conftest import StartGateway
from tests.contract.test_cascade import the_record
from tests.contract.windows import WORDS, reviewer, stream

STUDENTS = (
    "fake-tokens-30-gap-0.005-logprob-2.5", "fake-tokens-30-gap-0.005-logprob-0.5", "fault-reset-mid-7-tokens-30-gap-0.005",
    "fault-error-frame-mid-12-tokens-30-gap-0.005", "fault-cut-12-tokens-30-gap-0.005-logprob-2.5", "fake-tokens-3",
)  # fmt: skip
TEACHERS = (
    "fake-tokens-20",
    "fault-500",
    "fault-reset-mid-3-tokens-20",
    "fault-error-frame",
    "fault-cut-2-tokens-20",
    "fault-422",
)
REVIEWERS = (
    reviewer("EarlyDoubter"), reviewer("EarlyDoubter", on_escalation="reserve"), reviewer("Hesitant", max_tokens=16),
    reviewer("Watcher", action="mark"), reviewer("Watcher", action="continue"),
    reviewer("Watcher", action="continue", on_escalation="reserve"),
)  # fmt: skip
CASES = Random(6).sample(list(itertools.product(STUDENTS, TEACHERS, REVIEWERS)), 24)


@pytest.mark.parametrize(("student_model", "teacher_model", "rest"), CASES)
def test_client_reads_one_answer(
    start_gateway: StartGateway, student_model: str, teacher_model: str, rest: str
) -> None:
    gateway = start_gateway(student_model=student_model, teacher_model=teacher_model, rest=rest)
    response = stream(gateway)
    record = the_record(gateway)
    if response.status_code != 200:
        assert response.json()["error"]["code"] and "data:" not in response.text
        assert record.outcome not in ("ok", "degraded")
        return
    data = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    ended, failed = data[-1] == "[DONE]", '"error"' in data[-1]
    assert ended is not failed
    assert sum(each == "[DONE]" or '"error"' in each for each in data) == 1
    chunks = [json.loads(each) for each in data[:-1]]
    assert len({(chunk["id"], chunk["model"], chunk["created"]) for chunk in chunks}) == 1
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert sum("role" in delta for delta in deltas) == 1
    finished = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert len(finished) == (1 if ended else 0)
    words = [delta["content"] for delta in deltas if delta.get("content")]
    late = record.draft.window.late if record.draft is not None and record.draft.window is not None else None
    first = next((at for at, word in enumerate(words) if at and word == WORDS[0] and at % 10), len(words))
    if first < len(words):  # a second beginning is a teacher's that continued
        assert late is not None and late.action == "continue" and first == late.tokens - 1
    assert (record.outcome in ("ok", "degraded")) is ended
