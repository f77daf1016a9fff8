"""What the router reads from a plain chat completion; the answer itself is passed on untouched."""

from __future__ import annotations

import json
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
    usage: Any = None


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
        return _meaning_of_odd(body)
    if not completion.choices:
        return None
    first = completion.choices[0]
    content = first.message.content if first.message else None
    usage = usage_of({"usage": completion.usage})
    return Meaning(usage, first.finish_reason, content if isinstance(content, str) else None)


def _meaning_of_odd(body: bytes) -> Meaning | None:
    """The same for what only a lenient parser takes, such as a lone surrogate: legal JSON that was paid for."""
    try:
        answer = json.loads(body)
        first = answer["choices"][0]
        message = first.get("message") or {}
        reason, content = first.get("finish_reason"), message.get("content")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    return Meaning(
        usage_of(answer), reason if isinstance(reason, str) else None, content if isinstance(content, str) else None
    )
