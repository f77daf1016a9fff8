"""Whatever clients ask and students answer: reading it for the validity checks, and checking it, never fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import RequestFeatures
from policies.drafts.agreement import agreement
from policies.drafts.validity import CHECKS, Answer, Asked, failed_checks
from policies.record import Draft
from router.answers import meaning_of
from router.chat import ChatRequest
from router.draft_answers import answer_of, answer_of_stream, asked_of
from router.errors import InvalidRequest

KEYS = ("function", "name", "arguments", "type", "index", "parameters", "properties", "enum", "json_schema", "schema")
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from(["", "x", "{}", "function", "required", '{"a":1}']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
members = st.dictionaries(
    st.sampled_from(["tools", "functions", "tool_choice", "response_format", "max_tokens", "max_completion_tokens"]),
    values,
)
messages = st.dictionaries(
    st.sampled_from(["content", "tool_calls", "function_call", "refusal", "audio", "reasoning"]), values, max_size=4
)


def features(text: str) -> RequestFeatures:
    return RequestFeatures(
        prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1, last_user_turn=text
    )


def asked_in(more: dict[str, Any]) -> Asked:
    said = [{"role": "system", "content": [{"type": "text", "text": "s"}, {}]}, {"role": "user", "content": "hi"}]
    body = {"model": "auto", "messages": said, **more}
    try:
        request = ChatRequest.parse(json.dumps(body).encode(), [])
    except InvalidRequest:  # such a request never gets so far
        return Asked()
    return asked_of(request, features("hi"))


@given(members, messages, st.sampled_from([None, "stop", "length", "tool_calls"]))
def test_plain_answers_of_any_shape_are_read_and_checked(
    request: dict[str, Any], message: dict[str, Any], finish: str | None
) -> None:
    body = json.dumps({"choices": [{"message": message, "finish_reason": finish}]}).encode()
    meaning = meaning_of(body)
    assert meaning is not None
    asked, answer = asked_in(request), answer_of(meaning)
    assert set(failed_checks(asked, answer)) <= set(CHECKS)
    assert 0.0 <= agreement(asked, answer, Answer("x", "stop")) <= 1.0
    assert agreement(asked, answer, answer) in (0.0, 1.0)


@given(members, st.lists(messages | values, max_size=4), st.booleans())
def test_streams_of_any_shape_are_read_and_checked(request: dict[str, Any], deltas: list[Any], whole: bool) -> None:
    frames = (
        b"".join(b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n" for delta in deltas)
        + b"data: {\n\ndata: [DONE]\n\n: note\n\n"
    )
    draft = Draft(text=None, finish_reason="stop" if whole else None, prefix=not whole)
    answer = answer_of_stream(draft, frames, other_than_text=True)
    assert answer.whole is whole
    assert set(failed_checks(asked_in(request), answer)) <= set(CHECKS)


@pytest.mark.parametrize("depth", [50, 500, 5_000])
def test_answer_as_deep_as_can_be_is_judged(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    asked = asked_in({"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [[[]], {}]}}}})
    assert set(failed_checks(asked, Answer(deep, "stop"))) <= {"broken_json"}


def test_call_in_pieces_is_put_together() -> None:
    pieces: list[dict[str, Any]] = [
        {"tool_calls": [{"index": 0, "id": "1", "type": "function", "function": {"name": "weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"name": "time", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Bern"}'}}]},
    ]
    frames = b"".join(b"data: " + json.dumps({"choices": [{"delta": each}]}).encode() + b"\n\n" for each in pieces)
    answer = answer_of_stream(Draft(finish_reason="tool_calls"), frames, other_than_text=True)
    assert [(call.name, call.arguments) for call in answer.calls] == [("weather", '{"city":"Bern"}'), ("time", "{}")]
