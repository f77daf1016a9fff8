"""Chat answers become responses of OpenAI's Responses API, whole and as streams."""

from __future__ import annotations

from typing import Any

import openai.types.responses as wire
import pytest
from hypothesis import given
from pydantic import TypeAdapter

from router.dialects.responses.answer import from_chat
from router.dialects.responses.stream import ResponsesStream
from router.errors import BackendBroken, BackendTimeout
from tests.router.dialects.chats import USAGE, Call, Chat, Json, chunk, events_of, patient, streams

ASK: Json = {"model": "auto", "input": "Hi", "metadata": {"a": "b"}, "temperature": 0.5}
CALLS = (Call("weather", '{"city": "Rome"}'), Call("time", "{}"))
known_event: TypeAdapter[wire.ResponseStreamEvent] = TypeAdapter(wire.ResponseStreamEvent)
LOGPROB = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}


def now_s() -> float:
    return 5.0


def streamed(chunks: list[Json]) -> bytes:
    stream = ResponsesStream(ASK, now_s=now_s)
    return b"".join([*map(stream.feed, chunks), stream.end()])


def response_of(events: list[Json]) -> Json:
    """What a client puts together from the deltas; checks the order of the events and what they repeat."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    output: list[Json] = []
    texts: list[str] = []
    open_id = None
    for event in events[2:-1]:
        place, kind = event["output_index"], event["type"]
        if kind == "response.output_item.added":
            assert open_id is None
            assert place == len(output)
            assert event["item"]["status"] == "in_progress"
            output.append(event["item"])
            texts.append("")
            open_id = event["item"]["id"]
            continue
        assert place == len(output) - 1
        assert event.get("item_id", open_id) == open_id
        if kind.endswith(".delta"):
            texts[place] += event["delta"]
        elif kind == "response.output_item.done":
            assert event["item"]["id"] == open_id
            output[place] = event["item"]
            open_id = None
        elif kind == "response.content_part.done":
            assert texts[place] in event["part"].values()
        elif kind.endswith(".done"):
            assert texts[place] in event.values()
    assert open_id is None
    final: Json = events[-1]["response"]
    assert final["output"] == output
    assert final["id"] == events[0]["response"]["id"]
    return final


@patient
@given(streams())
def test_stream_says_the_same_as_the_whole_answer_however_it_is_cut(case: tuple[Chat, list[Json]]) -> None:
    chat, chunks = case
    assert response_of(events_of(streamed(chunks))) == from_chat(chat.plain(), ASK)


@patient
@given(streams())
def test_every_event_is_one_that_the_official_types_describe(case: tuple[Chat, list[Json]]) -> None:
    for event in events_of(streamed(case[1])):
        parsed = known_event.validate_python(event)
        assert parsed.model_dump(exclude_unset=True, by_alias=True)["type"] == event["type"]


def test_answer_is_what_the_official_types_describe() -> None:
    chat = Chat("Hello", "hm", CALLS, "tool_calls", USAGE)
    response = wire.Response.model_validate(from_chat(chat.plain(), ASK))
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    assert response.output_text == "Hello"
    assert (response.id, response.created_at, response.model) == ("resp_1f", 1_700_000_000, "teacher-1")
    assert response.status == "completed"
    assert response.metadata == {"a": "b"}
    assert response.temperature == 0.5
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.input_tokens_details.cached_tokens) == (20, 4)
    call = response.output[2]
    assert isinstance(call, wire.ResponseFunctionToolCall)
    assert (call.call_id, call.name, call.arguments) == ("call_0", "weather", '{"city": "Rome"}')


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_finish_reason_becomes_a_status(finish: str, status: str, reason: str | None) -> None:
    response = from_chat(Chat("a", finish_reason=finish).plain(), ASK)
    assert response["status"] == status
    assert response["incomplete_details"] == ({"reason": reason} if reason else None)
    assert response["output"][-1]["status"] == status
    events = events_of(streamed(Chat("a", finish_reason=finish).chunks([{"content": "a"}])))
    assert events[-1]["type"] == f"response.{status}"


def test_refusal_has_a_part_of_its_own() -> None:
    answer = Chat().plain()
    answer["choices"][0]["message"]["refusal"] = "I cannot."
    (item,) = from_chat(answer, ASK)["output"]
    assert item["content"] == [{"type": "refusal", "refusal": "I cannot."}]
    names = [event["type"] for event in events_of(streamed([chunk({"refusal": "I cannot."})]))]
    assert "response.refusal.delta" in names
    assert "response.refusal.done" in names


def test_logprobs_stand_beside_their_text() -> None:
    first = chunk({"content": "a"}, logprobs={"content": [LOGPROB]})
    events = events_of(streamed([first, chunk({"content": "a"}, logprobs={"content": [LOGPROB]})]))
    assert [e["logprobs"] for e in events if e["type"] == "response.output_text.delta"] == [[LOGPROB], [LOGPROB]]
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == [LOGPROB, LOGPROB]


def test_response_repeats_what_was_asked() -> None:
    asked = {**ASK, "instructions": "Be brief.", "reasoning": {"effort": "low"}, "text": {"verbosity": "low"}}
    response = from_chat(Chat("a").plain(), asked)
    assert response["instructions"] == "Be brief."
    assert response["reasoning"] == {"effort": "low", "summary": None}
    assert response["text"] == {"verbosity": "low", "format": {"type": "text"}}
    assert response["store"] is False


def test_time_is_the_clocks_when_the_backend_tells_none() -> None:
    answer = Chat("a").plain()
    del answer["created"]
    assert from_chat(answer, ASK, now_s=now_s)["created_at"] == 5


@pytest.mark.parametrize("chunks", [[], [chunk({"content": "a"}), chunk({"tool_calls": [{"index": 0, "id": "c"}]})]])
def test_error_in_mid_stream_is_a_failed_response(chunks: list[Json]) -> None:
    stream = ResponsesStream(ASK, now_s=now_s)
    written = b"".join(map(stream.feed, chunks))
    events = events_of(written + stream.error(BackendTimeout("silent", cause="timeout")))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    last: Any = known_event.validate_python(events[-1])
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert (last.response.error.code, last.response.error.message) == ("server_error", "silent")
    assert [event["type"] for event in events].count("response.created") == 1


def test_what_is_no_chat_completion_is_a_broken_backend() -> None:
    with pytest.raises(BackendBroken):
        from_chat({"choices": []}, ASK)
