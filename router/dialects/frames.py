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


def event(value: Json) -> bytes:
    """One event, named by the `type` of its data."""
    name: str = value["type"]
    return b"event: " + name.encode() + b"\ndata: " + encoded(value) + b"\n\n"
