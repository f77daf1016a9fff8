"""`/v1/messages` to a backend that has it itself, with Anthropic's official client."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import pytest

from loadtests.fake_backend import BackendThread
from policies.record import Usage
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.test_cascade import DOUBTER, WEAK
from tests.contract.test_messages import TEXT, ask, connect

NATIVE = 'native_apis = ["messages"]'


def post(gateway: RunningGateway, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{gateway.origin}/v1/messages", content=content, timeout=20)


def test_backend_that_has_the_api_is_asked_in_it_byte_for_byte(
    start_gateway: StartGateway, student: BackendThread
) -> None:
    gateway = start_gateway(student=NATIVE)
    body = b'{"model": "auto","max_tokens":9, "messages":[{"role":"user","content":"Hi"}], "x":1E+2, "router":{"session":"s"}}'
    response = post(gateway, body)
    received = student.state.received[-1]
    assert received.path == "/v1/messages"
    assert received.body == body.replace(b"auto", b"student").replace(b', "router":{"session":"s"}', b"")
    assert response.content == b"".join(received.response)
    (record,) = gateway.records()
    assert (record.completion, record.finish_reason, record.outcome) == (TEXT, "stop", "ok")
    assert record.usage == Usage(prompt_tokens=9, completion_tokens=8, cached_tokens=3, cache_write_tokens=1)
    assert record.session == "s"
    assert json.loads(record.request or "")["messages"] == [{"role": "user", "content": "Hi"}]


def test_native_stream_is_passed_on_byte_for_byte(start_gateway: StartGateway, student: BackendThread) -> None:
    gateway = start_gateway(student=NATIVE)
    response = post(gateway, ask("[[fake-split-tokens-3]]", stream=True))
    assert response.content == b"".join(student.state.received[-1].response)
    with connect(gateway) as client, client.messages.stream(**ask(max_tokens=2)) as stream:
        message = stream.get_final_message()
    assert (message.stop_reason, message.usage.output_tokens, message.model) == ("max_tokens", 2, "student")
    first, second = gateway.records()
    assert (first.completion, first.finish_reason, first.outcome) == ("The quick brown", "stop", "ok")
    assert (second.completion, second.finish_reason) == ("The quick", "length")
    assert second.usage == Usage(prompt_tokens=9, completion_tokens=2, cached_tokens=3, cache_write_tokens=1)


def test_end_that_a_native_backend_forgets_is_added(start_gateway: StartGateway) -> None:
    gateway = start_gateway(student=NATIVE)
    events = post(gateway, ask("[[fault-no-done]]", stream=True)).content
    assert events.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert gateway.records()[0].outcome == "ok"


def test_refusal_of_a_native_backend_is_an_error_of_anthropics_form(start_gateway: StartGateway) -> None:
    with connect(start_gateway(student=NATIVE)) as client:
        for stream in (False, True):
            with pytest.raises(anthropic.UnprocessableEntityError, match="fake backend") as caught:
                client.messages.create(**ask("[[fault-422]]"), stream=stream)
            assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["fault-error-frame", "fault-reset", "fault-500"])
def test_translation_takes_over_where_the_next_backend_lacks_the_api(
    start_gateway: StartGateway, teacher: BackendThread, stream: bool, fault: str
) -> None:
    with connect(start_gateway(student=NATIVE, student_model=fault)) as client:
        if stream:
            with client.messages.stream(**ask()) as events:
                message = events.get_final_message()
        else:
            message = client.messages.create(**ask())
    assert message.model == "teacher"
    assert teacher.state.received[-1].path == "/v1/chat/completions"


@pytest.mark.parametrize("fault", ["fault-reset-mid-3", "fault-error-frame-mid-3", "fault-cut-3"])
def test_native_stream_that_breaks_ends_in_an_error_event(
    start_gateway: StartGateway, fault: str, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    gateway = start_gateway(student=NATIVE)
    kinds = []
    with connect(gateway) as client, pytest.raises(anthropic.APIStatusError):
        for event in client.messages.create(**ask(f"[[{fault}]]"), stream=True):
            kinds.append(event.type)
    assert kinds.count("content_block_delta") == 3
    assert "message_stop" not in kinds
    wait_until(lambda: bool(gateway.records()))
    assert (gateway.records()[0].outcome, gateway.records()[0].completion) == ("backend_error", "The quick brown")


def test_draft_is_asked_for_in_chats_words_when_it_is_reviewed(
    start_gateway: StartGateway, student: BackendThread
) -> None:
    gateway = start_gateway(student=NATIVE, rest=DOUBTER, student_model=WEAK)
    with connect(gateway) as client:
        assert client.messages.create(**ask()).model == "teacher"
    assert student.state.received[-1].path == "/v1/chat/completions"
