"""What an answer may hold beside its text: reasoning and tool calls, as vLLM spells them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

PIECE_CHARS = 5
"""Of a call's arguments in one stream event."""
REASONING = ("Let", " me", " think", ".")


class Call(msgspec.Struct, frozen=True):
    """One tool call."""

    call_id: str
    name: str
    arguments: str


def calls_of(tools: Any, count: int) -> tuple[Call, ...]:
    """`count` calls of the request's tools in turn; made-up names where it brings none."""
    names = [
        tool["function"]["name"]
        for tool in (tools if isinstance(tools, list) else ())
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict) and "name" in tool["function"]
    ]
    return tuple(
        Call(f"chatcmpl-tool-{i}", names[i % len(names)] if names else f"tool_{i}", json.dumps({"number": i, "a": "b"}))
        for i in range(count)
    )


def message_members(reasoning: tuple[str, ...], calls: tuple[Call, ...]) -> dict[str, Any]:
    """Members of a plain answer's message; empty for an answer that is only text."""
    members: dict[str, Any] = {}
    if reasoning:
        members["reasoning"] = "".join(reasoning)
    if calls:
        members["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return members


def call_deltas(calls: tuple[Call, ...]) -> Iterator[dict[str, Any]]:
    """The deltas of a stream that make the calls, one call after the other."""
    for index, call in enumerate(calls):
        function = {"name": call.name, "arguments": ""}
        yield {"tool_calls": [{"id": call.call_id, "type": "function", "index": index, "function": function}]}
        for start in range(0, len(call.arguments), PIECE_CHARS):
            piece = {"arguments": call.arguments[start : start + PIECE_CHARS]}
            yield {"tool_calls": [{"index": index, "function": piece}]}
