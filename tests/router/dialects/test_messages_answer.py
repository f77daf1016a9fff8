"""Chat answers become messages of Anthropic's API, whole and as streams."""

from __future__ import annotations

import json
from typing import Any

import anthropic.types
import pytest
from hypothesis import given

from router.dialects.messages.answer import ERROR_TYPES, error_body, from_chat
from router.dialects.messages.stream import MessagesStream
from router.errors import BackendBroken, BackendTimeout, InvalidRequest, LocumError, Overloaded, RateLimited
from tests.router.dialects.chats import (
    USAGE,
    Call,
    Chat,
    Json,
    call_begins,
    call_goes_on,
    chunk,
    events_of,
    patient,
    streams,
)

CALLS = (Call("weather", '{"city": "Rome"}'), Call("time", "{}"))


def streamed(chunks: list[Json], *, thinking: bool = True) -> bytes:
    stream = MessagesStream("auto", thinking=thinking)
    return b"".join([*map(stream.feed, chunks), stream.end()])


def message_of(events: list[Json]) -> Json:
    """What a client puts together; checks the order of the events on the way."""
    assert events[0]["type"] == "message_start"
    assert [event["type"] for event in events].count("message_start") == 1
    message: Json = events[0]["message"]
    assert message["content"] == []
    open_index = None
    buffers: dict[int, str] = {}
    for event in events[1:-2]:
        match event["type"]:
            case "ping":
                continue
            case "content_block_start":
                assert open_index is None
                open_index = len(message["content"])
                message["content"].append(event["content_block"])
                buffers[open_index] = ""
            case "content_block_delta":
                delta = event["delta"]
                buffers[event["index"]] += next(value for key, value in delta.items() if key != "type")
            case "content_block_stop":
                _close(message["content"][event["index"]], buffers[event["index"]])
                assert event["index"] == open_index
                open_index = None
            case kind:
                raise AssertionError(f"{kind} does not belong there")
        if open_index is not None:
            assert event["index"] == open_index
    assert open_index is None
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    return {**message, **events[-2]["delta"], "usage": events[-2]["usage"]}


def _close(block: Json, text: str) -> None:
    match block["type"]:
        case "tool_use":
            block["input"] = json.loads(text or "{}")
        case kind:
            block[kind] = text


@patient
@given(streams())
def test_stream_says_the_same_as_the_whole_answer_however_it_is_cut(case: tuple[Chat, list[Json]]) -> None:
    chat, chunks = case
    for thinking in (True, False):
        whole = from_chat(chat.plain(), "auto", thinking=thinking)
        assert message_of(events_of(streamed(chunks, thinking=thinking))) == whole


@patient
@given(streams())
def test_stream_keeps_every_argument_byte_for_byte(case: tuple[Chat, list[Json]]) -> None:
    chat, chunks = case
    events = events_of(streamed(chunks))
    starts = {e["index"]: e["content_block"] for e in events if e["type"] == "content_block_start"}
    texts = dict.fromkeys((i for i, block in starts.items() if block["type"] == "tool_use"), "")
    for event in events:
        if event["type"] == "content_block_delta" and event["index"] in texts:
            texts[event["index"]] += event["delta"]["partial_json"]
    assert list(texts.values()) == [call.arguments for call in chat.calls]


def test_answer_is_what_the_official_types_describe() -> None:
    chat = Chat("Hello", "hm", CALLS, "tool_calls", USAGE)
    message = anthropic.types.Message.model_validate(from_chat(chat.plain(), "auto", thinking=True))
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.id == "msg_1f"
    assert message.model == "teacher-1"
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (16, 4)
    assert message.usage.output_tokens == 7


@pytest.mark.parametrize(
    ("finish", "wanted"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("abort", "end_turn")],
)
def test_finish_reason_is_translated(finish: str, wanted: str) -> None:
    assert from_chat(Chat("a", finish_reason=finish).plain(), "auto")["stop_reason"] == wanted


def test_forced_call_ends_with_tool_use_although_chat_says_stop() -> None:
    assert from_chat(Chat(calls=CALLS, finish_reason="stop").plain(), "auto")["stop_reason"] == "tool_use"


def test_stop_sequence_is_named_when_the_backend_tells_it() -> None:
    answer = Chat("a").plain()
    answer["choices"][0]["stop_reason"] = "END"
    message = from_chat(answer, "auto")
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")
    chunks = [chunk({"content": "a"}), chunk({}, finish_reason="stop", stop_reason="END")]
    assert message_of(events_of(streamed(chunks)))["stop_sequence"] == "END"


def test_refusal_is_text_with_its_stop_reason() -> None:
    answer = Chat().plain()
    answer["choices"][0]["message"]["refusal"] = "I cannot."
    message = from_chat(answer, "auto")
    assert message["content"] == [{"type": "text", "text": "I cannot."}]
    assert message["stop_reason"] == "refusal"


def test_arguments_that_are_no_object_break_the_answer_unless_it_was_cut_off() -> None:
    for arguments in ('{"city": "Ro', "[1]"):
        with pytest.raises(BackendBroken):
            from_chat(Chat(calls=(Call("f", arguments),), finish_reason="tool_calls").plain(), "auto")
    cut = from_chat(Chat(calls=(Call("f", '{"city": "Ro'),), finish_reason="length").plain(), "auto")
    assert cut["content"][0]["input"] == {}
    assert cut["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [{"index": 0}]}, {"choices": [3]}])
def test_what_is_no_chat_completion_is_a_broken_backend(answer: Json) -> None:
    with pytest.raises(BackendBroken):
        from_chat(answer, "auto")


def test_reasoning_with_two_names_is_shown_once() -> None:
    answer = Chat("a").plain()
    answer["choices"][0]["message"] |= {"reasoning": "hm", "reasoning_content": "hm"}
    assert from_chat(answer, "auto", thinking=True)["content"][0]["thinking"] == "hm"


def test_call_waits_until_the_one_before_it_is_complete() -> None:
    stream = MessagesStream("auto")
    stream.feed(chunk(call_begins(0, "f", '{"a":')))
    assert stream.feed(chunk(call_begins(1, "g", "{}"))) == b""
    written = events_of(stream.feed(chunk(call_goes_on(0, "1}"))))
    assert [(event["type"], event["index"]) for event in written] == [
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
    ]


def test_call_begins_at_once_when_the_one_before_it_is_complete() -> None:
    stream = MessagesStream("auto")
    stream.feed(chunk(call_begins(0, "f", '{"a":1}')))
    written = events_of(stream.feed(chunk(call_begins(1, "g"))))
    assert [event["type"] for event in written] == ["content_block_stop", "content_block_start"]


def test_call_that_goes_on_after_its_end_is_a_broken_backend() -> None:
    stream = MessagesStream("auto")
    stream.feed(chunk(call_begins(0, "f", "{}")))
    stream.feed(chunk(call_begins(1, "g", "{}")))
    stream.feed(chunk(call_goes_on(0, " \n")))
    with pytest.raises(BackendBroken):
        stream.feed(chunk(call_goes_on(0, '{"a": 1}')))


def test_calls_without_numbers_are_told_apart_by_their_ids() -> None:
    def call(**members: Any) -> Json:
        return chunk({"tool_calls": [members]})

    chunks = [
        call(id="a", function={"name": "f", "arguments": "{"}),
        call(function={"arguments": "}"}),
        call(id="b", function={"name": "g", "arguments": "{}"}),
        chunk({}, finish_reason="tool_calls"),
    ]
    blocks = message_of(events_of(streamed(chunks)))["content"]
    assert [(block["id"], block["name"], block["input"]) for block in blocks] == [("a", "f", {}), ("b", "g", {})]


def test_call_without_an_id_gets_one() -> None:
    chunks = [chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]})]
    (block,) = message_of(events_of(streamed(chunks)))["content"]
    assert block["id"] == "call_1f_0"


def test_other_choices_and_odd_members_are_passed_over() -> None:
    other = chunk({"content": "no"})
    other["choices"][0]["index"] = 1
    odd = [{"choices": None}, {"choices": [3]}, chunk({"content": 3, "tool_calls": [None]}), {"usage": 4}]
    assert message_of(events_of(streamed([other, *odd, chunk({"content": "yes"})])))["content"] == [
        {"type": "text", "text": "yes"}
    ]


def test_lone_surrogate_stays_the_escape_that_it_was() -> None:
    written = streamed([chunk({"content": "\ud83d"}), chunk({"content": "\ude00"})])
    assert rb"\ud83d" in written
    assert rb"\ude00" in written


def test_empty_stream_has_a_start_and_an_end() -> None:
    message = message_of(events_of(MessagesStream("auto").end()))
    assert message["content"] == []
    assert message["model"] == "auto"


def test_error_in_mid_stream_is_an_error_event() -> None:
    stream = MessagesStream("auto")
    stream.feed(chunk({"content": "a"}))
    (event,) = events_of(stream.error(BackendTimeout("silent", cause="timeout")))
    assert event == {"type": "error", "error": {"type": "timeout_error", "message": "silent"}}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("bad"), "invalid_request_error"),
        (RateLimited("slow", retry_after_s=1), "rate_limit_error"),
        (Overloaded("full", retry_after_s=1), "overloaded_error"),
        (BackendBroken("bad", cause="invalid_response"), "api_error"),
        (LocumError(), "api_error"),
    ],
)
def test_error_has_anthropics_form(error: LocumError, kind: str) -> None:
    parsed = anthropic.types.ErrorResponse.model_validate_json(error_body(error))
    assert parsed.error.type == kind
    assert parsed.error.message


def test_every_error_type_is_one_that_clients_know() -> None:
    assert {ERROR_TYPES[401], ERROR_TYPES[403], ERROR_TYPES[404]} == {
        "authentication_error",
        "permission_error",
        "not_found_error",
    }
