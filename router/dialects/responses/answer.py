"""A chat completion as a response of OpenAI's Responses API."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from router.dialects.blocks import Block, BlockReader, TokenUsage
from router.dialects.fields import Json
from router.errors import LocumError

ECHOED: dict[str, Any] = {
    "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {},
    "parallel_tool_calls": True, "prompt_cache_key": None, "safety_identifier": None, "temperature": None,
    "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": None, "truncation": "disabled", "user": None,
}  # fmt: skip
"""Fields of the request that a response repeats, and what they are without it."""
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
FAILURE_CODES = {429: "rate_limit_exceeded"}
"""Of the closed set that a failed response may name; all else is `server_error`."""


def from_chat(answer: Json, request: Mapping[str, Any], *, now_s: Callable[[], float] = time.time) -> Json:
    """The response that says the same.

    Args:
        request: the body that the client sent.
        now_s: for answers that do not tell when they were made.
    Raises:
        BackendBroken: it is no chat completion.
    """
    reader = BlockReader()
    reader.read_plain(answer)
    return ended(opening(reader, request, now_s), reader)


def opening(reader: BlockReader, request: Mapping[str, Any], now_s: Callable[[], float] = time.time) -> Json:
    """A response before its output. The id is the backend's, with this API's prefix."""
    echoed = {key: default if request.get(key) is None else request[key] for key, default in ECHOED.items()}
    text = request.get("text") or {}
    reasoning = request.get("reasoning") or {}
    return {
        "id": f"resp_{_suffix(reader)}",
        "object": "response",
        "created_at": int(now_s()) if reader.created_s is None else reader.created_s,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": reader.model or request["model"],
        "output": [],
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "service_tier": reader.service_tier or request.get("service_tier") or "default",
        "store": False,
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "usage": None,
        **echoed,
    }


def ended(response: Json, reader: BlockReader) -> Json:
    """The response with its output, its status and its usage."""
    reason = INCOMPLETE.get(reader.finish_reason or "stop")
    last = len(reader.blocks) - 1
    output = [
        item(block, reader, "incomplete" if reason and block.number == last else "completed") for block in reader.blocks
    ]
    return {
        **response,
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "output": output,
        "service_tier": reader.service_tier or response["service_tier"],
        "usage": None if reader.usage is None else _usage(reader.usage),
    }


def failed(response: Json, reader: BlockReader, error: LocumError) -> Json:
    """The response of a stream that broke off, with the output that is complete."""
    return {
        **response,
        "status": "failed",
        "error": {
            "code": FAILURE_CODES.get(error.status, "server_error"),
            "message": str(error) or "Internal error.",
        },
        "output": [item(block, reader, "completed") for block in reader.blocks if block.ended],
        "usage": None if reader.usage is None else _usage(reader.usage),
    }


def item(block: Block, reader: BlockReader, status: str) -> Json:
    """An output item; `in_progress` is the item as it begins, without its content."""
    begins = status == "in_progress"
    found: Json = {"id": item_id(block, reader), "type": "message", "status": status}
    match block.kind:
        case "tool":
            arguments = "" if begins else block.text
            found |= {"type": "function_call", "arguments": arguments, "call_id": block.call_id, "name": block.name}
        case "reasoning":
            found |= {"type": "reasoning", "summary": [], "content": [] if begins else [content_part(block)]}
        case _:
            found |= {"role": "assistant", "content": [] if begins else [content_part(block)]}
    return found


def content_part(block: Block, *, empty: bool = False) -> Json:
    """The one part of a message or reasoning item."""
    text = "" if empty else block.text
    match block.kind:
        case "reasoning":
            return {"type": "reasoning_text", "text": text}
        case "refusal":
            return {"type": "refusal", "refusal": text}
        case _:
            return {
                "type": "output_text",
                "text": text,
                "annotations": [],
                "logprobs": [] if empty else block.logprobs,
            }


def item_id(block: Block, reader: BlockReader) -> str:
    """Unique within the response, and the same whenever the item is named."""
    prefix = {"tool": "fc", "reasoning": "rs"}.get(block.kind, "msg")
    return f"{prefix}_{_suffix(reader)}_{block.number}"


def _suffix(reader: BlockReader) -> str:
    return reader.answer_id.partition("-")[2] or reader.answer_id or "locum"


def _usage(usage: TokenUsage) -> Json:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_writes},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }
