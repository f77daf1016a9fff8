"""Server-sent events with a name, as Anthropic's and OpenAI's newer streams use them."""

from __future__ import annotations

import json

import msgspec

from router.dialects.fields import Json

_encode = msgspec.json.Encoder().encode


def encoded(value: Json) -> bytes:
    """JSON. A lone surrogate, which a backend may have cut out of a pair, stays the escape that it was."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def decoded(data: bytes) -> Json:
    """A JSON object; empty for what is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def event(value: Json) -> bytes:
    """One event, named by the `type` of its data."""
    name: str = value["type"]
    return b"event: " + name.encode() + b"\ndata: " + encoded(value) + b"\n\n"
