"""`/v1/messages` through the real gateway, with Anthropic's official client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import pytest

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.test_cascade import DOUBTER, WEAK

TOOLS: list[Any] = [
    {"name": "weather", "description": "Now.", "input_schema": {"type": "object", "properties": {}}},
    {"name": "time", "input_schema": {"type": "object"}},
]
TEXT = "The quick brown fox jumps over the lazy"


def connect(gateway: RunningGateway) -> anthropic.Anthropic:
    """The official client, without its own retries."""
    return anthropic.Anthropic(base_url=gateway.origin, api_key="unused-key", max_retries=0, timeout=20)


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[anthropic.Anthropic]:
    with connect(gateway) as client:
        yield client


def ask(content: Any = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": "auto", "max_tokens": 100, "messages": [{"role": "user", "content": content}], **fields}


def last_body(backend: BackendThread) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(backend.state.received[-1].body)
    return body


def test_client_reads_an_answer_of_the_student(client: anthropic.Anthropic, gateway: RunningGateway) -> None:
    raw = client.messages.with_raw_response.create(**ask())
    message = raw.parse()
    assert [block.to_dict() for block in message.content] == [{"text": TEXT, "type": "text"}]
    assert (message.role, message.model, message.stop_reason) == ("assistant", "student", "end_turn")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (8, 8)
    assert raw.headers["x-router-route"] == "student"
    (record,) = gateway.records()
    assert (record.endpoint, record.outcome, record.completion) == ("/v1/messages", "ok", TEXT)
    assert record.usage is not None
    assert record.usage.completion_tokens == 8
    assert json.loads(record.request or "")["messages"] == [{"role": "user", "content": "Hi"}]


def test_client_reads_a_stream(client: anthropic.Anthropic, gateway: RunningGateway) -> None:
    with client.messages.stream(**ask()) as stream:
        assert "".join(stream.text_stream) == TEXT
        message = stream.get_final_message()
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("end_turn", 8, 8)
    (record,) = gateway.records()
    assert (record.stream, record.outcome, record.completion) == (True, "ok", TEXT)
    assert record.usage is not None


def test_limit_of_tokens_is_the_stop_reason(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ask(max_tokens=2))
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 2)


@pytest.mark.parametrize("content", ["[[fake-calls-2]]", "[[fake-calls-2-tokens-0]]", "[[fake-calls-2-split-merge]]"])
def test_client_reads_parallel_tool_calls(client: anthropic.Anthropic, content: str) -> None:
    plain = client.messages.create(**ask(content), tools=TOOLS)
    with client.messages.stream(**ask(content), tools=TOOLS) as stream:
        streamed = stream.get_final_message()
    for message in (plain, streamed):
        calls = [block for block in message.content if block.type == "tool_use"]
        assert [call.name for call in calls] == ["weather", "time"]
        assert [call.input for call in calls] == [{"number": 0, "a": "b"}, {"number": 1, "a": "b"}]
        assert message.stop_reason == "tool_use"
    assert [block.to_dict() for block in plain.content] == [block.to_dict() for block in streamed.content]


def test_backend_gets_the_request_as_chat(client: anthropic.Anthropic, student: BackendThread) -> None:
    client.messages.create(
        **ask(
            [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}],
            system="Be brief.",
            tools=TOOLS,
            tool_choice={"type": "any"},
            stop_sequences=["END"],
            metadata={"user_id": "u"},
        ),
        extra_body={"seed": 7, "router": {"session": "s"}, "temperature": 0.5},
    )
    body = last_body(student)
    assert body["model"] == "student"
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert [tool["function"]["name"] for tool in body["tools"]] == ["weather", "time"]
    assert (body["tool_choice"], body["stop"], body["user"]) == ("required", ["END"], "u")
    assert (body["seed"], body["temperature"], body["max_completion_tokens"]) == (7, 0.5, 100)
    assert "router" not in body


def test_reasoning_is_shown_when_thinking_was_asked_for(client: anthropic.Anthropic) -> None:
    thinking: Any = {"type": "adaptive"}
    with client.messages.stream(**ask("[[fake-reasoning-3]]", thinking=thinking)) as stream:
        message = stream.get_final_message()
    assert [block.to_dict() for block in message.content] == [
        {"type": "thinking", "thinking": "Let me think", "signature": ""},
        {"type": "text", "text": TEXT},
    ]
    hidden = client.messages.create(**ask("[[fake-reasoning-3]]"))
    assert [block.type for block in hidden.content] == ["text"]


def test_search_results_decide_the_route(start_gateway: StartGateway) -> None:
    """They are the carrier of retrieved text that Anthropic's clients have."""
    gateway = start_gateway()
    blocks: list[Any] = [
        {"type": "search_result", "source": "kb/1", "title": "t", "content": [{"type": "text", "text": "Paris."}]},
        {"type": "text", "text": "Capital?"},
    ]
    with connect(gateway) as client:
        client.messages.create(**ask(blocks))
        client.messages.create(**ask(blocks), extra_body={"router": {"retrieval_confidence": 0.1}})
    first, second = gateway.records()
    assert first.features is not None
    assert [(chunk.id, chunk.text) for chunk in first.features.chunks] == [("kb/1", "Paris.")]
    assert (second.route, second.decision.policy) == ("teacher", "retrieval_confidence")


def test_wrong_field_is_an_error_of_anthropics_form(client: anthropic.Anthropic, gateway: RunningGateway) -> None:
    tool: Any = {"type": "web_search_20250305", "name": "web_search"}
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**ask(), tools=[tool])
    assert caught.value.type == "invalid_request_error"
    assert "tools.0.type" in str(caught.value)
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.messages.create(**ask(model="gpt-9"))
    assert unknown.value.type == "not_found_error"
    broken = httpx.post(f"{gateway.origin}/v1/messages", content=b'{"model": ')
    assert broken.status_code == 400
    assert broken.json()["type"] == "error"
    assert "position" in broken.json()["error"]["message"]


def test_refusal_of_a_backend_is_an_error_of_anthropics_form(client: anthropic.Anthropic) -> None:
    for stream in (False, True):
        with pytest.raises(anthropic.UnprocessableEntityError) as caught:
            client.messages.create(**ask("[[fault-422]]"), stream=stream)
        assert caught.value.type == "invalid_request_error"
        assert "fake backend" in str(caught.value)


def test_teacher_answers_when_the_student_fails(start_gateway: StartGateway) -> None:
    gateway = start_gateway(student_model="fault-500")
    with connect(gateway) as client:
        plain = client.messages.with_raw_response.create(**ask())
        assert plain.parse().model == "teacher"
        assert plain.headers["x-router-reason"] == "fallback_server_error"
        with client.messages.stream(**ask()) as stream:
            assert stream.get_final_message().model == "teacher"


@pytest.mark.parametrize("stream", [False, True])
def test_no_backend_is_an_error_of_anthropics_form(start_gateway: StartGateway, stream: bool) -> None:
    gateway = start_gateway(student_model="fault-500", teacher_model="fault-503-retry-after-7")
    with connect(gateway) as client, pytest.raises(anthropic.InternalServerError) as caught:
        client.messages.create(**ask(), stream=stream)
    assert (caught.value.status_code, caught.value.type) == (503, "overloaded_error")
    assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("fault", ["fault-reset-mid-3", "fault-error-frame-mid-3", "fault-cut-3"])
def test_stream_that_breaks_ends_in_an_error_event(
    client: anthropic.Anthropic, gateway: RunningGateway, fault: str, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    kinds = []
    with pytest.raises(anthropic.APIStatusError) as caught:
        for event in client.messages.create(**ask(f"[[{fault}]]"), stream=True):
            kinds.append(event.type)
    assert caught.value.type == "api_error"
    assert kinds[0] == "message_start"
    assert kinds.count("content_block_delta") == 3
    assert "message_stop" not in kinds
    wait_until(lambda: bool(gateway.records()))
    (record,) = gateway.records()
    assert record.outcome == "backend_error"
    assert record.completion == "The quick brown"


def test_stream_without_done_is_complete_when_it_has_its_finish_reason(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ask("[[fault-no-done]]")) as stream:
        assert stream.get_final_message().stop_reason == "end_turn"


def test_cascade_replaces_a_rejected_draft_before_the_translation(start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=DOUBTER, student_model=WEAK)
    with connect(gateway) as client:
        message = client.messages.create(**ask())
    assert message.model == "teacher"
    (record,) = gateway.records()
    assert record.draft is not None
    assert record.draft.escalated


def test_key_of_anthropics_client_is_known_and_its_limits_hold(start_gateway: StartGateway) -> None:
    """It sends `x-api-key`, where OpenAI's sends a bearer token."""
    rest = '[auth]\nkeys_env = "KEYS"\n[limits]\nrequests_per_minute = 1\n'
    gateway = start_gateway(rest=rest, environ={"KEYS": "team=secret-key-of-the-team"})
    with connect(gateway) as client, pytest.raises(anthropic.AuthenticationError) as caught:
        client.messages.create(**ask())
    assert caught.value.type == "authentication_error"
    with connect(gateway).with_options(api_key="secret-key-of-the-team") as client:
        assert client.messages.create(**ask()).model == "student"
        with pytest.raises(anthropic.RateLimitError) as limited:
            client.messages.create(**ask())
    assert limited.value.type == "rate_limit_error"
    assert int(limited.value.response.headers["retry-after"]) >= 1
    assert "team" in {record.tenant for record in gateway.records()}
