"""`/v1/completions` through the real gateway, with OpenAI's official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.test_cascade import DOUBTER, WEAK

TEXT = "The quick brown fox jumps over the lazy"


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[openai.OpenAI]:
    with gateway.client() as client:
        yield client


def test_answer_is_the_backends_byte_for_byte(gateway: RunningGateway, student: BackendThread) -> None:
    body = b'{"model": "auto","prompt":"[[fake-extra]]", "temperature": 2.50,"logprobs":1, "router": {"session":"s"}}'
    response = httpx.post(f"{gateway.origin}/v1/completions", content=body, timeout=20)
    received = student.state.received[-1]
    assert received.target == b"/v1/completions"
    assert received.body == b'{"model": "student","prompt":"[[fake-extra]]", "temperature": 2.50,"logprobs":1}'
    assert response.content == b"".join(received.response)


def test_client_reads_an_answer_and_its_record_is_written(client: openai.OpenAI, gateway: RunningGateway) -> None:
    answer = client.completions.create(model="auto", prompt="Once", max_tokens=3)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("The quick brown", "length")
    (record,) = gateway.records()
    assert (record.endpoint, record.outcome, record.completion) == ("/v1/completions", "ok", "The quick brown")
    assert record.finish_reason == "length"
    assert record.usage is not None
    assert record.usage.completion_tokens == 3


@pytest.mark.parametrize("usage", [False, True])
def test_stream_shows_usage_only_when_it_was_asked_for(
    client: openai.OpenAI, gateway: RunningGateway, usage: bool
) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = list(client.completions.create(model="auto", prompt="Once", stream=True, **options))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == TEXT
    assert any(chunk.usage for chunk in chunks) is usage
    (record,) = gateway.records()
    assert record.usage is not None
    assert (record.usage.completion_tokens, record.completion) == (8, TEXT)


def test_stream_of_several_choices_is_complete(client: openai.OpenAI, gateway: RunningGateway) -> None:
    chunks = list(client.completions.create(model="auto", prompt="[[fake-no-done]]", n=3, stream=True))
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1, 2}
    (record,) = gateway.records()
    assert record.outcome == "ok"


def test_list_of_prompts_is_forwarded(client: openai.OpenAI, student: BackendThread) -> None:
    client.completions.create(model="auto", prompt=["a", "b"], echo=True, suffix="c", best_of=2)
    body = json.loads(student.state.received[-1].body)
    assert (body["prompt"], body["echo"], body["suffix"], body["best_of"]) == (["a", "b"], True, "c", 2)


def test_long_prompt_goes_to_the_teacher(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(model="auto", prompt="word " * 9000)
    assert (raw.headers["x-router-route"], raw.headers["x-router-policy"]) == ("teacher", "long_context")


def test_teacher_answers_when_the_student_fails(start_gateway: StartGateway) -> None:
    gateway = start_gateway(student_model="fault-500")
    with gateway.client() as client:
        assert client.completions.create(model="auto", prompt="Once").model == "teacher"
        chunks = list(client.completions.create(model="auto", prompt="Once", stream=True))
    assert {chunk.model for chunk in chunks} == {"teacher"}


def test_answer_is_not_reviewed(start_gateway: StartGateway) -> None:
    """Reviewers judge chat completions; a completion has no logprobs of that form."""
    gateway = start_gateway(rest=DOUBTER, student_model=WEAK)
    with gateway.client() as client:
        assert client.completions.create(model="auto", prompt="Once").model == WEAK


def test_broken_stream_ends_in_an_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError):
        list(client.completions.create(model="auto", prompt="[[fault-reset-mid-3]]", stream=True))


def test_wrong_field_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="auto", prompt=[])
    assert caught.value.param == "prompt"
