"""Added options on real vLLM: what it gives is recorded, and the answer is the one that it gives without them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from router.config_file import parse
from tests.contract.conftest import RunningGateway

pytestmark = pytest.mark.slow

STOP_TOKEN_ID = 2
"""`<|im_end|>` of SmolLM2."""
CONFIG = """
[server]
port = 0
[student]
base_url = "{student}"
capture_logprobs = true
capture_token_ids = true
[teacher]
base_url = "{student}"
model = "student"
capture_token_ids = true
[log]
dir = "{log}"
[[routing.policies]]
type = "tests.contract.reviewers:EarlyDoubter"
"""


@pytest.fixture(scope="module")
def gateway(student_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    running = RunningGateway(parse(CONFIG.format(student=student_url, log=tmp_path_factory.mktemp("traffic"))), {})
    running.start()
    yield running
    running.stop()


def asked(**members: Any) -> dict[str, Any]:
    question = [{"role": "user", "content": "Say hi."}]
    return {"model": "student", "messages": question, "temperature": 0, "max_tokens": 32, **members}


def direct(student_url: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{student_url}/chat/completions", json=body, timeout=300)


def through(gateway: RunningGateway, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{gateway.origin}/v1/chat/completions", json=body, timeout=300)


def without_identity(answer: bytes) -> bytes:
    return re.sub(rb'"id":"[^"]*"|"created":\d+', b"", answer)


@pytest.mark.parametrize("route", ["student", "teacher"])
@pytest.mark.parametrize("members", [{}, {"max_tokens": 3}, {"logprobs": True}, {"return_token_ids": True}])
def test_answer_is_the_one_without_our_options(
    gateway: RunningGateway, student_url: str, members: dict[str, Any], route: str
) -> None:
    expected = direct(student_url, asked(**members))
    routed = through(gateway, asked(**{**members, "model": route}))
    assert routed.headers["x-router-route"] == route
    assert without_identity(routed.content) == without_identity(expected.content)


@pytest.mark.parametrize("members", [{}, {"max_tokens": 3}])
def test_record_has_the_ids_and_the_mean_without_the_stop_token(
    gateway: RunningGateway, student_url: str, members: dict[str, Any]
) -> None:
    answer = direct(student_url, asked(logprobs=True, return_token_ids=True, **members)).json()
    through(gateway, asked(**members))
    record = gateway.records()[-1]
    choice = answer["choices"][0]
    assert record.token_ids is not None
    assert list(record.token_ids.prompt) == answer["prompt_token_ids"]
    assert list(record.token_ids.completion) == choice["token_ids"]
    assert (choice["token_ids"][-1] == STOP_TOKEN_ID) == (choice["finish_reason"] == "stop")
    logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    if choice["finish_reason"] == "stop":
        logprobs.pop()
    assert record.mean_logprob == pytest.approx(sum(logprobs) / len(logprobs), abs=1e-3)


def test_vllm_states_the_same_about_itself_in_plain_answers_and_streams(gateway: RunningGateway) -> None:
    through(gateway, asked(max_tokens=3))
    through(gateway, asked(max_tokens=3, stream=True))
    plain, streamed = (record.backend_fingerprint for record in gateway.records()[-2:])
    assert plain is not None
    assert plain.startswith("student vllm-")
    assert streamed == plain


def test_cascade_judges_by_vllms_logprobs(gateway: RunningGateway) -> None:
    through(gateway, asked(model="auto"))
    record = gateway.records()[-1]
    assert record.draft is not None
    assert record.draft.mean_logprob is not None
    assert record.draft.escalated == (record.draft.mean_logprob < -1)
    assert record.route == ("teacher" if record.draft.escalated else "student")


def text_of(stream: bytes) -> str:
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def test_reviewed_stream_shows_nothing_of_our_logprobs(gateway: RunningGateway, student_url: str) -> None:
    """Teacher and student are one model here: whichever answers, the text is the same."""
    expected = direct(student_url, asked(stream=True))
    plain = direct(student_url, asked(logprobs=True)).json()["choices"][0]
    routed = through(gateway, asked(model="auto", stream=True))
    assert text_of(routed.content) == text_of(expected.content)
    assert b'"logprob"' not in routed.content
    assert routed.content.count(b'"logprobs":null') > 1
    assert routed.content.endswith(b"data: [DONE]\n\n")
    record = gateway.records()[-1]
    assert record.draft is not None
    first = [entry["logprob"] for entry in plain["logprobs"]["content"]][: record.draft.tokens]
    if record.draft.prefix:
        assert record.draft.mean_logprob == pytest.approx(sum(first) / len(first), abs=1e-2)


def test_stream_with_logprobs_of_the_clients_own_keeps_them(gateway: RunningGateway) -> None:
    routed = through(gateway, asked(model="auto", stream=True, logprobs=True))
    assert b'"logprob":-' in routed.content
    record = gateway.records()[-1]
    assert record.draft is not None
    assert record.draft.mean_logprob is not None
