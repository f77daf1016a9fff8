"""`/v1/responses` of the fake backend: texts only, with an unknown member that must survive."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from loadtests.fake.answers import FIXED_CREATED_S, VOCABULARY
from loadtests.fake.scenario import Scenario

LEAD_EVENTS = 4
"""Events before the first text."""


class ResponseBody(msgspec.Struct):
    """A request, as far as the fake reads it."""

    model: str
    input: Any = None
    stream: bool | None = None
    max_output_tokens: int | None = None

    def directive_text(self) -> str:
        """Where a `[[directive]]` may stand: an input that is a string."""
        return self.input if isinstance(self.input, str) else ""


def plain(body: ResponseBody, scenario: Scenario) -> bytes:
    """The whole body of a plain answer."""
    return json.dumps(_response(body, scenario, "".join(_tokens(body, scenario)))).encode()


def events(body: ResponseBody, scenario: Scenario, end: bytes) -> list[bytes]:
    """The stream's events, each closed by `end`."""
    tokens = _tokens(body, scenario)
    opening = {**_response(body, scenario, None), "status": "in_progress"}
    item = {"id": "msg_fake", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    place = {"item_id": "msg_fake", "output_index": 0, "content_index": 0}
    whole = _response(body, scenario, "".join(tokens))
    found: list[dict[str, Any]] = [
        {"type": "response.created", "response": opening},
        {"type": "response.in_progress", "response": opening},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **place, "part": part},
        *({"type": "response.output_text.delta", **place, "delta": token, "logprobs": []} for token in tokens),
        {"type": "response.output_text.done", **place, "text": "".join(tokens), "logprobs": []},
        {"type": "response.content_part.done", **place, "part": whole["output"][0]["content"][0]},
        {"type": "response.output_item.done", "output_index": 0, "item": whole["output"][0]},
        {"type": f"response.{whole['status']}", "response": whole},
    ]
    if scenario.fault == "error_frame":
        kept = 0 if scenario.after_chunks is None else LEAD_EVENTS + scenario.after_chunks
        failed = {**opening, "status": "failed", "error": {"code": "server_error", "message": "The engine died."}}
        found[kept:] = [{"type": "response.failed", "response": failed}]
    return [
        b"event: " + event["type"].encode() + b"\ndata: " + json.dumps({**event, "sequence_number": n}).encode() + end
        for n, event in enumerate(found)
    ]


def _tokens(body: ResponseBody, scenario: Scenario) -> tuple[str, ...]:
    whole, rest = divmod(scenario.tokens, len(VOCABULARY))
    return (VOCABULARY * whole + VOCABULARY[:rest])[: body.max_output_tokens]


def _response(body: ResponseBody, scenario: Scenario, text: str | None) -> dict[str, Any]:
    count = len(_tokens(body, scenario))
    cut = count < scenario.tokens
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item = {"id": "msg_fake", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    return {
        "id": "resp_fake", "object": "response", "created_at": FIXED_CREATED_S, "model": body.model,
        "status": "incomplete" if cut else "completed", "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": [] if text is None else [item], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "x_native": 2.50,
        "usage": None if text is None else {
            "input_tokens": 9, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": count, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 9 + count,
        },
    }  # fmt: skip
