"""Whatever a client or a backend sends: a translation, or an error that says so; never another exception."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.apis import ReadMeaning
from router.chat import ChatRequest
from router.dialects.completions import CompletionRequest
from router.dialects.messages.endpoint import MESSAGES
from router.dialects.messages.native import MessagesReader, message_meaning
from router.dialects.messages.request import KNOWN as MESSAGES_FIELDS
from router.dialects.messages.stream import MessagesStream
from router.dialects.responses.endpoint import RESPONSES
from router.dialects.responses.native import ResponsesReader, response_meaning
from router.dialects.responses.request import KNOWN as RESPONSES_FIELDS
from router.dialects.responses.stream import ResponsesStream
from router.errors import BackendBroken, InvalidRequest
from tests.router.dialects.chats import patient

WORDS = (
    "text", "type", "user", "assistant", "tool", "image", "document", "search_result", "tool_result", "tool_use",
    "message", "function", "function_call", "function_call_output", "input_text", "input_image", "url", "base64", "auto",
    "enabled", "json_schema", "refusal", "reasoning", "file_search_call", "content", "allowed_tools",
)  # fmt: skip
KEYS = (
    "type", "text", "content", "role", "source", "title", "data", "media_type", "url", "id", "name", "input", "tool_use_id",
    "arguments", "call_id", "output", "results", "image_url", "citations", "enabled", "format", "schema", "effort", "tools",
    "index", "delta", "message", "choices", "tool_calls", "function", "finish_reason", "usage", "prompt_tokens", "error",
    "reasoning", "refusal", "logprobs", "budget_tokens", "mode", "response",
)  # fmt: skip
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), st.just(1e308 * 10), st.sampled_from(WORDS), st.just("\ud83d")
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)),
    max_leaves=12,
)


def bodies(fields: set[str] | frozenset[str], base: dict[str, Any]) -> st.SearchStrategy[bytes]:
    some = st.dictionaries(st.sampled_from(sorted(fields)), values, max_size=4)
    return some.map(lambda given: json.dumps({**base, **given}).replace("Infinity", "1e999").encode())


MESSAGES_BASE = {"model": "auto", "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}]}
RESPONSES_BASE = {"model": "auto", "input": "Hi"}


def model_that_is_asked(parse: Callable[..., ChatRequest], data: bytes) -> str:
    """What a request that is read becomes; of one that is refused by name: `refused`."""
    try:
        request = parse(data, [])
    except InvalidRequest as error:
        return "refused" if error.param or error.code == "invalid_json" else f"no field is named in: {error}"
    request.features(tenant="t", default_output_tokens=1, student_window_tokens=None)
    model: str = json.loads(request.forwarded("m"))["model"]
    return model


@patient
@given(bodies(MESSAGES_FIELDS, MESSAGES_BASE))
def test_messages_request_is_read_or_refused(data: bytes) -> None:
    assert model_that_is_asked(MESSAGES.parse, data) in ("m", "refused")


@patient
@given(values)
def test_messages_turns_are_read_or_refused(content: Any) -> None:
    turns = [{"role": "assistant", "content": content}, {"role": "user", "content": content}]
    data = json.dumps({**MESSAGES_BASE, "messages": turns}).replace("Infinity", "1e999").encode()
    assert model_that_is_asked(MESSAGES.parse, data) in ("m", "refused")


@patient
@given(bodies(RESPONSES_FIELDS, RESPONSES_BASE))
def test_responses_request_is_read_or_refused(data: bytes) -> None:
    assert model_that_is_asked(RESPONSES.parse, data) in ("m", "refused")


@patient
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), values, max_size=5), max_size=3))
def test_responses_items_are_read_or_refused(items: list[Any]) -> None:
    data = json.dumps({**RESPONSES_BASE, "input": items}).replace("Infinity", "1e999").encode()
    assert model_that_is_asked(RESPONSES.parse, data) in ("m", "refused")


@patient
@given(bodies({"prompt", "n", "suffix", "max_tokens", "stream_options", "echo", "store"}, {"model": "auto"}))
def test_completion_request_is_read_or_refused(data: bytes) -> None:
    assert model_that_is_asked(CompletionRequest.parse, data) in ("m", "refused")


@patient
@pytest.mark.parametrize(
    "stream", [lambda: MessagesStream("m", thinking=True), lambda: ResponsesStream(RESPONSES_BASE)]
)
@given(chunks=st.lists(st.dictionaries(st.sampled_from(KEYS), values, max_size=5), max_size=4))
def test_chunks_of_any_shape_are_translated_or_break_the_backend(
    stream: Callable[[], MessagesStream | ResponsesStream], chunks: list[dict[str, Any]]
) -> None:
    translation = stream()
    try:
        for chunk in chunks:
            translation.feed(chunk)
        last = translation.end()
    except BackendBroken as error:
        last = translation.error(error)
    assert last.startswith(b"event: ")
    assert last.endswith(b"\n\n")


@patient
@pytest.mark.parametrize(
    ("reader", "meaning_of"), [(ResponsesReader, response_meaning), (MessagesReader, message_meaning)]
)
@given(value=values, kind=st.sampled_from(["message", "message_start", "message_delta", "response.completed", None]))
def test_native_answers_of_any_shape_are_read(
    reader: type[ResponsesReader | MessagesReader], meaning_of: ReadMeaning, value: Any, kind: str | None
) -> None:
    if kind is not None and isinstance(value, dict):
        value = value | {"type": kind}
    data = json.dumps(value).replace("Infinity", "1e999").encode()
    frame = b"data: " + data + b"\n\n"
    meaning = meaning_of(data)
    assert meaning is None or meaning.text is None or isinstance(meaning.text, str)
    assert reader(hide_usage=True).read(frame).frame == frame
