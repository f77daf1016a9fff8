"""`/v1/responses` through the real gateway, with OpenAI's official client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.test_cascade import DOUBTER, WEAK

TOOLS: list[Any] = [
    {"type": "function", "name": name, "parameters": {"type": "object"}, "strict": False}
    for name in ("weather", "time")
]
TEXT = "The quick brown fox jumps over the lazy"


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[openai.OpenAI]:
    with gateway.client() as client:
        yield client


def last_body(backend: BackendThread) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(backend.state.received[-1].body)
    return body


def test_client_reads_an_answer_of_the_student(client: openai.OpenAI, gateway: RunningGateway) -> None:
    raw = client.responses.with_raw_response.create(model="auto", input="Hi", metadata={"a": "b"})
    response = raw.parse()
    assert (response.output_text, response.status, response.model) == (TEXT, "completed", "student")
    assert response.metadata == {"a": "b"}
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (8, 8, 16)
    assert raw.headers["x-router-route"] == "student"
    (record,) = gateway.records()
    assert (record.endpoint, record.outcome, record.completion) == ("/v1/responses", "ok", TEXT)
    assert json.loads(record.request or "")["messages"] == [{"role": "user", "content": "Hi"}]


def test_client_reads_a_stream(client: openai.OpenAI, gateway: RunningGateway) -> None:
    with client.responses.stream(model="auto", input="Hi") as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (response.output_text, response.status) == (TEXT, "completed")
    assert response.usage is not None
    assert response.usage.output_tokens == 8
    (record,) = gateway.records()
    assert (record.stream, record.outcome, record.completion) == (True, "ok", TEXT)


def test_limit_of_tokens_makes_the_response_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(model="auto", input="Hi", max_output_tokens=2)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("content", ["[[fake-calls-2]]", "[[fake-calls-2-tokens-0]]", "[[fake-calls-2-split-merge]]"])
def test_client_reads_parallel_tool_calls(client: openai.OpenAI, content: str) -> None:
    plain = client.responses.create(model="auto", input=content, tools=TOOLS)
    with client.responses.stream(model="auto", input=content, tools=TOOLS) as stream:
        streamed = stream.get_final_response()
    for response in (plain, streamed):
        calls = [item for item in response.output if item.type == "function_call"]
        assert [call.name for call in calls] == ["weather", "time"]
        assert [json.loads(call.arguments)["number"] for call in calls] == [0, 1]


def test_results_of_tools_go_back_as_the_next_input(client: openai.OpenAI, student: BackendThread) -> None:
    first = client.responses.create(model="auto", input="[[fake-calls-1]]", tools=TOOLS)
    (call,) = [item for item in first.output if item.type == "function_call"]
    client.responses.create(
        model="auto",
        tools=TOOLS,
        input=[
            {"role": "user", "content": "Weather?"},
            *(item.to_dict() for item in first.output),  # type: ignore[list-item]
            {"type": "function_call_output", "call_id": call.call_id, "output": "21 °C"},
        ],
    )
    messages = last_body(student)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"] == call.call_id
    assert messages[1]["content"] == TEXT


def test_backend_gets_the_request_as_chat(client: openai.OpenAI, student: BackendThread) -> None:
    class Answer(BaseModel):
        city: str

    with pytest.raises(ValueError):  # the fake answers with no JSON, and the client says so
        client.responses.parse(
            model="auto",
            instructions="Be brief.",
            input="Hi",
            text_format=Answer,
            reasoning={"effort": "low"},
            store=False,
            extra_body={"seed": 7, "router": {"session": "s"}},
        )
    body = last_body(student)
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert body["response_format"]["json_schema"]["name"] == "Answer"
    assert (body["reasoning_effort"], body["store"], body["seed"]) == ("low", False, 7)
    assert "router" not in body
    assert "input" not in body


def test_text_is_not_kept_when_the_client_says_store_false(client: openai.OpenAI, gateway: RunningGateway) -> None:
    client.responses.create(model="auto", input="secret", store=False)
    (record,) = gateway.records()
    assert (record.capture, record.request, record.completion) == ("metadata", None, None)


def test_logprobs_come_with_the_text(client: openai.OpenAI) -> None:
    options: Any = {"model": "auto", "input": "[[fake-tokens-2-logprob-2.5]]", "top_logprobs": 1}
    options["include"] = ["message.output_text.logprobs"]
    response = client.responses.create(**options)
    (item,) = response.output
    assert item.type == "message"
    (part,) = item.content
    assert part.type == "output_text"
    assert [found.logprob for found in part.logprobs or ()][:2] == [-2.5, -2.5]
    with client.responses.stream(**options) as stream:
        deltas = [event for event in stream if event.type == "response.output_text.delta"]
    assert [found.logprob for delta in deltas for found in delta.logprobs] == [-2.5, -2.5]


def test_wrong_field_is_named(client: openai.OpenAI, gateway: RunningGateway) -> None:
    for field, value in (("previous_response_id", "resp_1"), ("background", True), ("conversation", "conv_1")):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model="auto", input="Hi", extra_body={field: value})
        assert caught.value.param == field
    broken = httpx.post(f"{gateway.origin}/v1/responses", content=b'{"model": ')
    assert broken.status_code == 400
    assert broken.json()["error"]["code"] == "invalid_json"


def test_refusal_of_a_backend_reaches_the_client(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.UnprocessableEntityError, match="fake backend"):
            client.responses.create(model="auto", input="[[fault-422]]", stream=stream)


def test_teacher_answers_when_the_student_fails(start_gateway: StartGateway) -> None:
    gateway = start_gateway(student_model="fault-error-frame")
    with gateway.client() as client:
        assert client.responses.create(model="auto", input="Hi").model == "teacher"
        with client.responses.stream(model="auto", input="Hi") as stream:
            assert stream.get_final_response().model == "teacher"


@pytest.mark.parametrize("stream", [False, True])
def test_no_backend_is_an_error_with_retry_after(start_gateway: StartGateway, stream: bool) -> None:
    gateway = start_gateway(student_model="fault-500", teacher_model="fault-503")
    with gateway.client() as client, pytest.raises(openai.InternalServerError) as caught:
        client.responses.create(model="auto", input="Hi", stream=stream)
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("fault", ["fault-reset-mid-3", "fault-error-frame-mid-3", "fault-cut-3"])
def test_stream_that_breaks_ends_in_a_failed_response(
    client: openai.OpenAI, gateway: RunningGateway, fault: str, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    events = list(client.responses.create(model="auto", input=f"[[{fault}]]", stream=True))
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert last.response.error.message
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events].count("response.output_text.delta") == 3
    wait_until(lambda: bool(gateway.records()))
    (record,) = gateway.records()
    assert record.outcome == "backend_error"


NATIVE = 'native_apis = ["responses"]'


def test_backend_that_has_the_api_is_asked_in_it_byte_for_byte(
    start_gateway: StartGateway, student: BackendThread
) -> None:
    gateway = start_gateway(student=NATIVE)
    body = b'{"model": "auto","input":"Hi", "temperature": 0.50, "x":1E+2, "router":{"session":"s"}}'
    response = httpx.post(f"{gateway.origin}/v1/responses", content=body, timeout=20)
    received = student.state.received[-1]
    assert received.path == "/v1/responses"
    assert received.body == b'{"model": "student","input":"Hi", "temperature": 0.50, "x":1E+2}'
    assert response.content == b"".join(received.response)
    (record,) = gateway.records()
    assert (record.completion, record.finish_reason, record.outcome) == (TEXT, "stop", "ok")
    assert record.usage is not None
    assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (9, 8)
    assert json.loads(record.request or "")["messages"] == [{"role": "user", "content": "Hi"}]


def test_native_stream_is_passed_on_byte_for_byte(start_gateway: StartGateway, student: BackendThread) -> None:
    gateway = start_gateway(student=NATIVE)
    body = {"model": "auto", "input": "[[fake-split-tokens-3]]", "stream": True}
    response = httpx.post(f"{gateway.origin}/v1/responses", json=body, timeout=20)
    assert response.content == b"".join(student.state.received[-1].response)
    with gateway.client() as client:
        events = list(client.responses.create(model="auto", input="Hi", max_output_tokens=2, stream=True))
    assert events[-1].type == "response.incomplete"
    first, second = gateway.records()
    assert (first.completion, first.finish_reason) == ("The quick brown", "stop")
    assert (second.completion, second.finish_reason) == ("The quick", "length")
    assert second.usage is not None
    assert second.usage.completion_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
def test_translation_takes_over_where_the_next_backend_lacks_the_api(start_gateway: StartGateway, stream: bool) -> None:
    gateway = start_gateway(student=NATIVE, student_model="fault-error-frame")
    with gateway.client() as client:
        if not stream:
            assert client.responses.create(model="auto", input="Hi").model == "teacher"
            return
        with client.responses.stream(model="auto", input="Hi") as events:
            assert events.get_final_response().model == "teacher"


@pytest.mark.parametrize("fault", ["fault-reset-mid-3", "fault-error-frame-mid-3", "fault-cut-3"])
def test_native_stream_that_breaks_ends_in_an_error_event(
    start_gateway: StartGateway, fault: str, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    gateway = start_gateway(student=NATIVE)
    with gateway.client() as client:
        events = list(client.responses.create(model="auto", input=f"[[{fault}]]", stream=True))
    assert events[-1].type == "error"
    assert [event.type for event in events].count("response.output_text.delta") == 3
    wait_until(lambda: bool(gateway.records()))
    assert gateway.records()[0].outcome == "backend_error"


def test_draft_is_asked_for_in_chats_words_when_it_is_reviewed(
    start_gateway: StartGateway, student: BackendThread
) -> None:
    gateway = start_gateway(student=NATIVE, rest=DOUBTER, student_model=WEAK)
    with gateway.client() as client:
        assert client.responses.create(model="auto", input="Hi").model == "teacher"
    assert student.state.received[-1].path == "/v1/chat/completions"
