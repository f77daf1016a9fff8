"""A chat completion as an answer of Anthropic's Messages API, and errors in its form."""

from __future__ import annotations

import json

from router.dialects.blocks import Block, BlockReader, TokenUsage
from router.dialects.fields import Json
from router.dialects.frames import encoded
from router.errors import BackendBroken, LocumError

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def from_chat(answer: Json, model: str, *, thinking: bool = False) -> Json:
    """The message that says the same.

    Args:
        model: named where the backend names none.
        thinking: whether the client asked to see the reasoning.
    Raises:
        BackendBroken: it is no chat completion, or has a tool call whose arguments are not an object.
    """
    reader = BlockReader()
    reader.read_plain(answer)
    message = opening(reader, model)
    message["content"] = [content_block(block, reader) for block in reader.blocks if is_shown(block, thinking=thinking)]
    message |= ending(reader)
    message["usage"] = usage_of(reader.usage or TokenUsage())
    return message


def opening(reader: BlockReader, model: str) -> Json:
    """A message before its content. The id is the backend's, with Anthropic's prefix."""
    return {
        "id": "msg_" + (reader.answer_id.partition("-")[2] or reader.answer_id or "locum"),
        "type": "message",
        "role": "assistant",
        "model": reader.model or model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def ending(reader: BlockReader) -> Json:
    """Why the message ends: `stop_reason` and `stop_sequence`."""
    reason = STOP_REASONS.get(reader.finish_reason or "stop", "end_turn")
    kinds = {block.kind for block in reader.blocks}
    if "refusal" in kinds:
        reason = "refusal"
    elif reason == "end_turn" and "tool" in kinds:  # a forced call ends with `stop` in chat
        reason = "tool_use"
    elif reason == "end_turn" and reader.stop_sequence:
        return {"stop_reason": "stop_sequence", "stop_sequence": reader.stop_sequence}
    return {"stop_reason": reason, "stop_sequence": None}


def usage_of(usage: TokenUsage) -> Json:
    """Anthropic counts what was read from or written to a cache beside the input, not in it."""
    return {
        "input_tokens": max(0, usage.prompt - usage.cached - usage.cache_writes),
        "cache_creation_input_tokens": usage.cache_writes,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    }


def is_shown(block: Block, *, thinking: bool) -> bool:
    return thinking or block.kind != "reasoning"


def content_block(block: Block, reader: BlockReader) -> Json:
    """A finished block. Raises: BackendBroken."""
    found = empty_block(block)
    match block.kind:
        case "reasoning":
            found["thinking"] = block.text
        case "tool":
            found["input"] = _input(block, cut_off=reader.finish_reason == "length")
        case _:
            found["text"] = block.text
    return found


def empty_block(block: Block) -> Json:
    """A block as it begins. Thinking has no signature: nobody has to prove later that it is the routed model's."""
    match block.kind:
        case "reasoning":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "tool":
            return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": {}}
        case _:
            return {"type": "text", "text": ""}


def _input(block: Block, *, cut_off: bool) -> Json:
    """The arguments of a call. One that was cut off by the token limit is empty, as `stop_reason` lets expect."""
    try:
        arguments = json.loads(block.text or "{}")
    except (ValueError, RecursionError):
        arguments = {} if cut_off else None
    if not isinstance(arguments, dict):
        raise BackendBroken("the arguments of a tool call are not a JSON object", cause="invalid_response")
    return arguments


def error_object(error: LocumError) -> Json:
    """Anthropic's error form; the same in a body and in a stream."""
    kind = ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": str(error) or "Internal error."}}


def error_body(error: LocumError) -> bytes:
    return encoded(error_object(error))
