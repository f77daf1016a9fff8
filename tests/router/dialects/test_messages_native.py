"""What is read in the answers of a backend that speaks the Messages API itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.record import Usage
from router.dialects.messages.native import MessagesReader, message_meaning

USAGE = {"input_tokens": 5, "cache_creation_input_tokens": 1, "cache_read_input_tokens": 3, "output_tokens": 1}
TEXT = {"type": "text", "text": "Hello"}


def frame(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def started() -> MessagesReader:
    reader = MessagesReader(hide_usage=True)
    delta = reader.read(frame("message_start", message={"model": "m", "usage": USAGE}))
    assert (delta.commits, delta.fingerprint, delta.done) == (False, "m", False)
    return reader


def test_stream_is_not_committed_to_before_its_answer() -> None:
    reader = started()
    assert not reader.read(frame("ping")).commits
    assert not reader.read(b": beat\n\n").commits
    assert not reader.read(frame("content_block_start", index=0, content_block={"type": "text", "text": ""})).commits
    assert reader.read(frame("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})).commits
    assert reader.read(frame("content_block_start", index=1, content_block={"type": "tool_use", "name": "t"})).commits


@pytest.mark.parametrize(
    ("stated", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "incomplete"),
    ],
)
def test_end_tells_finish_reason_and_usage_of_both_parts(stated: str, finish: str) -> None:
    reader = started()
    usage = {"output_tokens": 7, "input_tokens": None, "output_tokens_details": {"thinking_tokens": 2}}
    delta = reader.read(frame("message_delta", delta={"stop_reason": stated}, usage=usage))
    assert (delta.finish_reason, delta.finished, delta.done) == (finish, frozenset({0}), False)
    assert delta.usage == Usage(
        prompt_tokens=9, completion_tokens=7, cached_tokens=3, reasoning_tokens=2, cache_write_tokens=1
    )
    assert reader.read(frame("message_stop")).done


def test_usage_is_unknown_when_the_start_did_not_tell_it() -> None:
    reader = MessagesReader(hide_usage=True)
    delta = reader.read(frame("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 7}))
    assert (delta.usage, delta.finish_reason) == (None, None)


@pytest.mark.parametrize(
    "event",
    [
        frame("error", error={"type": "overloaded_error", "message": "died"}),
        b'data: {"error": {"message": "died"}}\n\n',
    ],
)
def test_error_has_its_message_in_every_form(event: bytes) -> None:
    reader = MessagesReader(hide_usage=True)
    assert not reader.is_ordinary(event)
    assert reader.read(event).error == "died"


def test_text_is_ordinary_and_is_what_the_deltas_say() -> None:
    reader = started()
    block = frame("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hel"}) + b": beat\n\n"
    block += frame("content_block_delta", index=0, delta={"type": "text_delta", "text": "lo"})
    block += frame("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": "no"})
    block += frame("content_block_delta", index=1, delta={"type": "thinking_delta", "thinking": "no"})
    assert reader.is_ordinary(block)
    assert reader.text_of(block) == "Hello"
    for kind in ("message_start", "message_delta", "message_stop"):
        assert not reader.is_ordinary(frame(kind))


def test_meaning_of_a_plain_message() -> None:
    content = [{"type": "thinking", "thinking": "no"}, TEXT, {"type": "tool_use", "name": "t", "input": {}}, TEXT]
    usage = USAGE | {"cache_creation_input_tokens": None}
    message = {"type": "message", "content": content, "stop_reason": "tool_use", "usage": usage, "model": "m"}
    meaning = message_meaning(json.dumps(message).encode())
    assert meaning is not None
    assert (meaning.text, meaning.finish_reason, meaning.fingerprint) == ("HelloHello", "tool_calls", "m")
    assert meaning.usage == Usage(prompt_tokens=8, completion_tokens=1, cached_tokens=3)


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"{}", b'{"type":"error","error":{"message":"x"}}', b'{"type":"message","content":"x"}']
)
def test_what_is_no_message_has_no_meaning(body: bytes) -> None:
    assert message_meaning(body) is None
