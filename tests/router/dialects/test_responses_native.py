"""What is read in the answers of a backend that speaks the Responses API itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.dialects.responses.native import ResponsesReader, response_meaning

USAGE = {"input_tokens": 5, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}
ITEM = {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}


def frame(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def read(kind: str, **members: Any) -> Any:
    return ResponsesReader(hide_usage=True).read(frame(kind, **members))


@pytest.mark.parametrize("kind", ["response.created", "response.queued", "response.in_progress"])
def test_stream_is_not_committed_to_before_its_answer(kind: str) -> None:
    assert not read(kind, response={"error": None}).commits
    assert read("response.output_item.added", item={}).commits
    assert not ResponsesReader(hide_usage=True).read(b": beat\n\n").commits


@pytest.mark.parametrize(
    ("kind", "response", "finish"),
    [
        ("response.completed", {"output": [ITEM]}, "stop"),
        ("response.completed", {"output": [ITEM, {"type": "function_call"}]}, "tool_calls"),
        ("response.incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ("response.incomplete", {"incomplete_details": {"reason": "content_filter"}}, "content_filter"),
    ],
)
def test_end_tells_finish_reason_and_usage(kind: str, response: dict[str, Any], finish: str) -> None:
    delta = read(kind, response={**response, "usage": USAGE, "model": "m"})
    assert (delta.done, delta.finish_reason, delta.fingerprint) == (True, finish, "m")
    assert (delta.usage.prompt_tokens, delta.usage.completion_tokens, delta.usage.cached_tokens) == (5, 3, 2)


@pytest.mark.parametrize(
    "event",
    [
        frame("error", message="died", code=None),
        frame("error", error={"message": "died"}),
        frame("response.failed", response={"error": {"message": "died"}}),
        b'data: {"error": {"message": "died"}}\n\n',
    ],
)
def test_error_has_its_message_in_every_form(event: bytes) -> None:
    reader = ResponsesReader(hide_usage=True)
    assert not reader.is_ordinary(event)
    assert reader.read(event).error == "died"


def test_text_is_ordinary_and_is_what_the_deltas_say() -> None:
    reader = ResponsesReader(hide_usage=True)
    block = frame("response.output_text.delta", delta="Hel") + b": beat\n\n"
    block += frame("response.output_text.delta", delta="lo") + frame("response.reasoning_text.delta", delta="no")
    assert reader.is_ordinary(block)
    assert reader.text_of(block) == "Hello"
    assert not reader.is_ordinary(frame("response.completed"))


def test_meaning_of_a_plain_response() -> None:
    body = json.dumps({"status": "completed", "output": [ITEM, ITEM], "usage": USAGE, "model": "m"}).encode()
    meaning = response_meaning(body)
    assert meaning is not None
    assert (meaning.text, meaning.finish_reason, meaning.fingerprint) == ("HelloHello", "stop", "m")
    assert meaning.usage is not None
    assert meaning.usage.completion_tokens == 3


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"output":[],"status":"failed"}', b'{"error":"x"}'])
def test_what_is_no_response_has_no_meaning(body: bytes) -> None:
    assert response_meaning(body) is None
