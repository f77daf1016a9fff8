"""The Responses API of a backend that has it: requests and answers pass untouched, and this is what is read in them."""

from __future__ import annotations

from typing import Any

from policies.record import Usage
from router.answers import Meaning
from router.apis import BackendApi
from router.dialects.fields import Json
from router.dialects.frames import decoded
from router.sse import Delta, fingerprint_of, frames_of, is_count, payload

ENDS = ("response.completed", "response.incomplete")
NOT_YET = ("response.created", "response.queued", "response.in_progress")
"""Events before the answer: a stream is not committed to at them."""
_ENDINGS = (b"response.completed", b"response.incomplete", b"response.failed", b'"error"', b"[DONE]")
_DELTA = "response.output_text.delta"
FINISH_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}


class ResponsesReader:
    """Reads the frames of one stream. Its last event is the answer's own; nothing else may stand for it."""

    ending: bytes | None = None

    def __init__(self, hide_usage: bool) -> None:
        """`hide_usage` changes nothing: this API always tells it."""

    def is_ordinary(self, block: bytes) -> bool:
        return not any(ending in block for ending in _ENDINGS)

    def read(self, frame: bytes) -> Delta:
        data = payload(frame)
        if data is None:
            return Delta(frame)
        event = decoded(data)
        kind = event.get("type")
        response = event.get("response")
        if not isinstance(response, dict):
            response = {}
        if kind in ("error", "response.failed") or (kind is None and event.get("error")):
            return Delta(frame, error=_message(event if kind == "error" else {**event, **response}))
        if kind in NOT_YET:
            return Delta(frame)
        if kind not in ENDS:
            return Delta(frame, data=data)
        return Delta(
            frame,
            done=True,
            finish_reason=_finish_reason(response),
            finished=frozenset({0}),
            usage=_usage(response.get("usage")),
            fingerprint=fingerprint_of(response.get("model"), None),
            data=data,
        )

    def text_of(self, block: bytes) -> str:
        events = (decoded(data) for data in map(payload, frames_of(block)) if data is not None)
        deltas = (event.get("delta") for event in events if event.get("type") == _DELTA)
        return "".join(delta for delta in deltas if isinstance(delta, str))


def response_meaning(body: bytes, *, detailed: bool = False) -> Meaning | None:
    """None when the body is not a response with an output. `detailed` changes nothing: nothing is added."""
    response = decoded(body)
    output = response.get("output")
    if not isinstance(output, list) or response.get("status") not in ("completed", "incomplete", None):
        return None
    parts = (part for item in output if isinstance(item, dict) for part in _parts(item))
    texts = [part.get("text") for part in parts if part.get("type") == "output_text"]
    return Meaning(
        _usage(response.get("usage")),
        _finish_reason(response),
        "".join(text for text in texts if isinstance(text, str)) if texts else None,
        fingerprint_of(response.get("model"), None),
    )


RESPONSES_API = BackendApi("responses", b"/responses", response_meaning, ResponsesReader)


def _parts(item: Json) -> list[Json]:
    content = item.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _finish_reason(response: Json) -> str:
    """In the words of chat, as records have it."""
    details = response.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    if isinstance(reason, str):
        return FINISH_REASONS.get(reason, "incomplete")
    output = response.get("output")
    items = output if isinstance(output, list) else []
    calls = any(isinstance(item, dict) and item.get("type") == "function_call" for item in items)
    return "tool_calls" if calls else "stop"


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    counts = usage.get("input_tokens"), usage.get("output_tokens")
    if not all(map(is_count, counts)):
        return None
    return Usage(
        prompt_tokens=counts[0],  # type: ignore[arg-type]  # checked above
        completion_tokens=counts[1],  # type: ignore[arg-type]
        cached_tokens=_detail(usage.get("input_tokens_details"), "cached_tokens"),
        reasoning_tokens=_detail(usage.get("output_tokens_details"), "reasoning_tokens"),
        cache_write_tokens=_detail(usage.get("input_tokens_details"), "cache_write_tokens"),
    )


def _detail(details: Any, key: str) -> int:
    value: Any = details.get(key) if isinstance(details, dict) else None
    return int(value) if is_count(value) else 0


def _message(event: Json) -> str:
    """Of an event `error`, whose message may stand in it or in an object, or of a failed response."""
    error = event.get("error")
    message = event.get("message") or (error.get("message") if isinstance(error, dict) else error)
    return str(message or "the backend failed")
