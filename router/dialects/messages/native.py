"""The Messages API of a backend that has it: requests and answers pass untouched, and this is what is read in them."""

from __future__ import annotations

from typing import Any

from policies.record import Usage
from router.answers import Meaning
from router.apis import BackendApi
from router.dialects.fields import Json
from router.dialects.frames import decoded, event
from router.sse import Delta, fingerprint_of, frames_of, is_count, payload

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
EMPTY = ("text", "thinking")
"""Blocks that begin without anything of the answer: a stream is not committed to at them."""
_NOT_TEXT = (b"message_start", b"message_delta", b"message_stop", b'"error"')


class MessagesReader:
    """Reads the frames of one stream. Its start tells the usage of the input, its end that of the output."""

    ending: bytes | None = event({"type": "message_stop"})

    def __init__(self, hide_usage: bool) -> None:
        """`hide_usage` changes nothing: this API always tells it."""
        self._counted: Json = {}

    def is_ordinary(self, block: bytes) -> bool:
        return not any(mark in block for mark in _NOT_TEXT)

    def read(self, frame: bytes) -> Delta:
        data = payload(frame)
        found = {} if data is None else decoded(data)
        kind = found.get("type")
        if kind == "error" or (kind is None and found.get("error")):
            return Delta(frame, error=_message(found))
        if kind == "message_start":
            message = _part(found, "message")
            self._count(message)
            return Delta(frame, fingerprint=fingerprint_of(message.get("model"), None))
        if kind == "message_delta":
            return self._end(frame, found, data)
        if kind == "ping" or (kind == "content_block_start" and _part(found, "content_block").get("type") in EMPTY):
            return Delta(frame)
        return Delta(frame, done=kind == "message_stop", data=data)

    def text_of(self, block: bytes) -> str:
        deltas = (_part(decoded(data), "delta") for data in map(payload, frames_of(block)) if data is not None)
        texts = (delta.get("text") for delta in deltas if delta.get("type") == "text_delta")
        return "".join(text for text in texts if isinstance(text, str))

    def _end(self, frame: bytes, found: Json, data: bytes | None) -> Delta:
        """Why the message ends, and what it cost."""
        self._count(found)
        reason = _part(found, "delta").get("stop_reason")
        if reason is None:
            return Delta(frame, usage=_usage(self._counted), data=data)
        finish = _finish_reason(reason)
        return Delta(frame, finish_reason=finish, finished=frozenset({0}), usage=_usage(self._counted), data=data)

    def _count(self, holder: Json) -> None:
        """Counts are cumulative, and what an event leaves out stands."""
        self._counted |= {key: value for key, value in _part(holder, "usage").items() if value is not None}


def message_meaning(body: bytes, *, detailed: bool = False) -> Meaning | None:
    """None when the body is not a message. `detailed` changes nothing: nothing is added."""
    message = decoded(body)
    content = message.get("content")
    if message.get("type") != "message" or not isinstance(content, list):
        return None
    blocks = (block for block in content if isinstance(block, dict) and block.get("type") == "text")
    texts = [text for block in blocks if isinstance(text := block.get("text"), str)]
    return Meaning(
        _usage(_part(message, "usage")),
        _finish_reason(message.get("stop_reason")),
        "".join(texts) if texts else None,
        fingerprint_of(message.get("model"), None),
    )


MESSAGES_API = BackendApi("messages", b"/messages", message_meaning, MessagesReader)


def _finish_reason(reason: Any) -> str:
    """In the words of chat, as records have it."""
    return FINISH_REASONS.get(reason, "incomplete") if isinstance(reason, str) else "stop"


def _usage(usage: Json) -> Usage | None:
    """What was read from or written to a cache is counted beside the input here, and in it everywhere else."""
    counts = [usage.get(key) or 0 for key in ("cache_creation_input_tokens", "cache_read_input_tokens")]
    counts += [usage.get("input_tokens"), usage.get("output_tokens")]
    if not all(map(is_count, counts)):
        return None
    thinking: Any = _part(usage, "output_tokens_details").get("thinking_tokens")
    return Usage(
        prompt_tokens=sum(counts[:3]),
        completion_tokens=counts[3],
        cached_tokens=counts[1],
        reasoning_tokens=int(thinking) if is_count(thinking) else 0,
        cache_write_tokens=counts[0],
    )


def _message(found: Json) -> str:
    error = found.get("error")
    return str((error.get("message") if isinstance(error, dict) else error) or "the backend failed")


def _part(holder: Json, key: str) -> Json:
    value = holder.get(key)
    return value if isinstance(value, dict) else {}
