"""Chat answers for tests of the dialects: the same answer whole, and cut into chunks in many ways."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.effort import examples

Json = dict[str, Any]
patient = settings(deadline=None, max_examples=examples(50), suppress_health_check=[HealthCheck.too_slow])
"""For property tests: a busy machine is no fault of theirs."""
USAGE = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27, "prompt_tokens_details": {"cached_tokens": 4}}


@dataclass(frozen=True)
class Call:
    """One tool call; its arguments are the JSON text as the model wrote it."""

    name: str
    arguments: str

    @property
    def input(self) -> Json:
        found: Json = json.loads(self.arguments)
        return found


@dataclass(frozen=True)
class Chat:
    """What a model said."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    finish_reason: str = "stop"
    usage: Json | None = None

    def plain(self) -> Json:
        message: Json = {"role": "assistant", "content": self.text or None}
        if self.reasoning:
            message["reasoning"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [
                {"id": f"call_{i}", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for i, call in enumerate(self.calls)
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return {**head("chat.completion"), "choices": [choice], "usage": self.usage}

    def chunks(self, pieces: list[Json]) -> list[Json]:
        """A stream whose deltas are `pieces`, between the chunk with the role and those with finish reason and usage."""
        deltas = [{"role": "assistant", "content": ""}, *pieces]
        stream = [chunk(delta) for delta in deltas]
        stream.append(chunk({}, finish_reason=self.finish_reason))
        if self.usage is not None:
            stream.append({**head("chat.completion.chunk"), "choices": [], "usage": self.usage})
        return stream

    def deltas(self) -> list[Json]:
        """One delta for every part, calls in their order."""
        found: list[Json] = []
        if self.reasoning:
            found.append({"reasoning": self.reasoning})
        if self.text:
            found.append({"content": self.text})
        for index, call in enumerate(self.calls):
            found.append(call_begins(index, call.name))
            found.append(call_goes_on(index, call.arguments))
        return found


def head(kind: str) -> Json:
    return {"id": "chatcmpl-1f", "object": kind, "created": 1_700_000_000, "model": "teacher-1"}


def chunk(delta: Json, *, finish_reason: str | None = None, **more: Any) -> Json:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, **more}
    return {**head("chat.completion.chunk"), "choices": [choice]}


def call_begins(index: int, name: str, arguments: str = "") -> Json:
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": index, "id": f"call_{index}", "type": "function", "function": function}]}


def call_goes_on(index: int, arguments: str) -> Json:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=24)
inputs = st.dictionaries(texts, st.one_of(texts, st.integers(-9, 9), st.lists(texts, max_size=2)), max_size=3)


@st.composite
def chats(draw: st.DrawFn) -> Chat:
    names = st.text("abcdef_", min_size=1, max_size=5)
    calls = draw(st.lists(st.builds(Call, names, inputs.map(json.dumps)), max_size=3))
    finish = "tool_calls" if calls else draw(st.sampled_from(["stop", "length", "content_filter"]))
    usage = draw(st.sampled_from([None, USAGE]))
    return Chat(draw(texts), draw(texts), tuple(calls), finish, usage)


@st.composite
def streams(draw: st.DrawFn) -> tuple[Chat, list[Json]]:
    """A chat, and its chunks: every part cut at random places, tool calls one after the other or all mixed up."""
    chat = draw(chats())
    pieces = [{"reasoning": piece} for piece in _cut(draw, chat.reasoning)]
    pieces += [{"content": piece} for piece in _cut(draw, chat.text)]
    calls = [
        [call_begins(i, call.name), *(call_goes_on(i, piece) for piece in _cut(draw, call.arguments))]
        for i, call in enumerate(chat.calls)
    ]
    if draw(st.booleans()):
        calls = [_mixed(draw, calls)]
    return chat, chat.chunks([*pieces, *(piece for call in calls for piece in call)])


def _cut(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _mixed(draw: st.DrawFn, calls: list[list[Json]]) -> list[Json]:
    """Every call's pieces in their order, and the calls begin in theirs."""
    rest = [list(call[1:]) for call in calls]
    mixed = [call[0] for call in calls]
    while any(rest):
        index = draw(st.sampled_from([i for i, call in enumerate(rest) if call]))
        mixed.append(rest[index].pop(0))
    return mixed


def events_of(stream: bytes) -> list[Json]:
    """The events of a stream with named events; checks that every name is the type of its data."""
    found = []
    for frame in stream.decode("utf-8").split("\n\n")[:-1]:
        name, data = frame.split("\n")
        value: Json = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    return found
