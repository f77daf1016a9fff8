"""Rewrites the texts inside a JSON text, and leaves every other byte of it as it is.

Escapes are undone before a text is looked at, so `\\u0040` hides no address, and made anew where it was changed. A
text that is a JSON object or array itself (the arguments of a tool call, structured output) is treated the same way.
Long numbers are looked at too; one that is replaced becomes a string, so that the whole stays JSON.
"""

from __future__ import annotations

import json
import re
from typing import Protocol

import msgspec

from router.scrub.placeholders import Sheet, Text

MAX_DEPTH = 4
"""JSON within JSON texts."""
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|(?<![\w.+-])\d{9,40}(?![\w.+-])', re.DOTALL)
"""A string, or a whole number that is long enough to mean somebody. Possessive: each character is read once."""
_LOOKS_LIKE_JSON = re.compile(r"\s{0,64}[\[{]")


class Part(Protocol):
    """Something whose text is known after the sheet was scrubbed."""

    @property
    def changed(self) -> bool: ...

    def __str__(self) -> str: ...


class JsonText:
    """A valid JSON text with its strings on a sheet."""

    def __init__(self, text: str, sheet: Sheet, depth: int = 0) -> None:
        self._text = text
        self._parts: list[tuple[int, int, Part]] = []
        for match in _TOKEN.finditer(text):
            token = match.group()
            if token[0] != '"':
                self._parts.append((*match.span(), sheet.text(token)))
            elif len(token) > 2:
                inner: str = json.loads(token, strict=False) if "\\" in token else token[1:-1]
                self._parts.append((*match.span(), part_of(inner, sheet, depth + 1)))

    @property
    def changed(self) -> bool:
        return any(part.changed for _, _, part in self._parts)

    def __str__(self) -> str:
        pieces, at = [], 0
        for start, end, part in self._parts:
            if part.changed:
                pieces += [self._text[at:start], _spelled(str(part))]
                at = end
        return "".join((*pieces, self._text[at:]))


def part_of(text: str, sheet: Sheet, depth: int = 0) -> Text | JsonText:
    """The text on the sheet; its strings, where it is a JSON object or array."""
    if depth < MAX_DEPTH and _LOOKS_LIKE_JSON.match(text) and _is_json(text):
        return JsonText(text, sheet, depth)
    return sheet.text(text)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True


def _spelled(text: str) -> str:
    """As a JSON string. Lone surrogates, which JSON can spell and UTF-8 cannot, stay escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False)
