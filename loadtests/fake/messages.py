"""`/v1/messages` of the fake backend: texts only, with an unknown member that must survive."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from loadtests.fake.answers import VOCABULARY
from loadtests.fake.scenario import Scenario

LEAD_EVENTS = 3
"""Events before the first text."""


class MessageBody(msgspec.Struct):
    """A request, as far as the fake reads it."""

    model: str
    messages: list[dict[str, Any]]
    max_tokens: int
    stream: bool | None = None

    def directive_text(self) -> str:
        """Where a `[[directive]]` may stand: a last message whose content is a string."""
        content = self.messages[-1].get("content") if self.messages else None
        return content if isinstance(content, str) else ""


def plain(body: MessageBody, scenario: Scenario) -> bytes:
    """The whole body of a plain answer."""
    tokens = _tokens(body, scenario)
    ended = {"content": [{"type": "text", "text": "".join(tokens)}], "stop_reason": _stop_reason(body, scenario)}
    return json.dumps({**_message(body), **ended, "usage": {**USAGE, "output_tokens": len(tokens)}}).encode()


def events(body: MessageBody, scenario: Scenario, end: bytes) -> list[bytes]:
    """The stream's events, each closed by `end`."""
    tokens = _tokens(body, scenario)
    found: list[dict[str, Any]] = [
        {"type": "message_start", "message": _message(body)},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": token}}
            for token in tokens
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": _stop_reason(body, scenario), "stop_sequence": None},
            "usage": {"output_tokens": len(tokens)},
        },
        {"type": "message_stop"},
    ]
    if scenario.fault == "error_frame":
        kept = 0 if scenario.after_chunks is None else LEAD_EVENTS + scenario.after_chunks
        found[kept:] = [{"type": "error", "error": {"type": "overloaded_error", "message": "The engine died."}}]
    if scenario.no_done:
        found.pop()
    return [b"event: " + event["type"].encode() + b"\ndata: " + json.dumps(event).encode() + end for event in found]


USAGE = {"input_tokens": 5, "cache_creation_input_tokens": 1, "cache_read_input_tokens": 3, "output_tokens": 0}


def _tokens(body: MessageBody, scenario: Scenario) -> tuple[str, ...]:
    whole, rest = divmod(scenario.tokens, len(VOCABULARY))
    return (VOCABULARY * whole + VOCABULARY[:rest])[: body.max_tokens]


def _stop_reason(body: MessageBody, scenario: Scenario) -> str:
    return "max_tokens" if body.max_tokens < scenario.tokens else "end_turn"


def _message(body: MessageBody) -> dict[str, Any]:
    return {
        "id": "msg_fake", "type": "message", "role": "assistant", "model": body.model, "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": USAGE, "x_native": 2.50,
    }  # fmt: skip
