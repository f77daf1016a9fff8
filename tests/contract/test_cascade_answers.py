"""Drafts that are no text: calls are answers and refusals are no empty ones, in a stream as in one piece."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.conftest import StartGateway
from tests.contract.test_cascade import the_record
from tests.contract.test_odd_input import EVENTS, PLAIN, STREAM, answering, chunk

CASCADE = '[[routing.policies]]\ntype = "cascade"\n'
CALLS = [{"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"


@pytest.mark.parametrize("content", [None, ""])
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"tool_calls": CALLS}, "default"),  # a call that the client has forced ends with `stop`
        ({"function_call": {"name": "f", "arguments": "{}"}}, "default"),
        ({"refusal": "I cannot help with that."}, "refused"),
        ({"tool_calls": [], "refusal": ""}, "empty_answer"),
        ({"reasoning_content": "Let me think."}, "empty_answer"),
    ],
)
def test_stream_without_text_is_empty_only_where_it_holds_nothing_else(
    start_gateway: StartGateway, content: str | None, said: dict[str, Any], reason: str
) -> None:
    frames = frame({"role": "assistant", "content": content}) + frame(said) + chunk(finish="stop") + b"data: [DONE]\n\n"
    with answering(EVENTS + frames) as url:
        gateway = start_gateway(student_url=url, rest=CASCADE)
        response = gateway.post(STREAM)
        assert response.headers["x-router-route"] == ("student" if reason == "default" else "teacher")
        assert (response.content == frames) == (reason == "default")
        assert the_record(gateway).reason == reason


@pytest.mark.parametrize("said", [{"tool_calls": CALLS}, {"refusal": "I cannot help with that."}])
def test_plain_answer_with_an_empty_text_is_not_empty_where_it_holds_something_else(
    start_gateway: StartGateway, said: dict[str, Any]
) -> None:
    message = {"role": "assistant", "content": "", **said}
    answer = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
    with answering(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + answer) as url:
        gateway = start_gateway(student_url=url, rest=f"{CASCADE}escalate_refused = false")
        assert gateway.post(PLAIN).content == answer
        assert the_record(gateway).completion is None
