"""What the router reads from a plain chat completion; the answer itself is passed on untouched."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from policies.record import Usage
from router.sse import usage_of


class _Message(msgspec.Struct):
    content: Any = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    message: _Message | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Completion).decode


class Meaning(NamedTuple):
    """Of the first choice."""

    usage: Usage | None
    finish_reason: str | None
    text: str | None


def meaning_of(body: bytes) -> Meaning | None:
    """None when the body is not a chat completion with at least one choice."""
    try:
        completion = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not completion.choices:
        return None
    first = completion.choices[0]
    content = first.message.content if first.message else None
    usage = usage_of({"usage": completion.usage})
    return Meaning(usage, first.finish_reason, content if isinstance(content, str) else None)
