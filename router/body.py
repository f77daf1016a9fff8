"""Request bodies as they came: parsed once, with the place of every top-level member, so that edits are splices.

Numbers, escapes, key order and white space that we do not touch reach the backend byte for byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from router.errors import InvalidRequest

MAX_MEMBERS = 1024
"""Top-level keys; a request has a few dozen at most."""
MAX_VALUES = 1_000_000
"""Commas and opening brackets in a body, those in texts included: three bytes of `[],` become 70 bytes of memory, and
building them keeps all other requests waiting. A text with so many is beyond any context window; images have none."""


class Member(NamedTuple):
    """Where a top-level member stands in the text, as half-open character ranges."""

    key_start: int
    value_start: int
    value_end: int


Edit = tuple[int, int, str]
"""A half-open range of characters, and what stands there instead."""


def edited(text: str, edits: Iterable[Edit]) -> str:
    """The text with every edit made; they do not overlap."""
    pieces: list[str] = []
    position = 0
    for start, end, new in sorted(edits):
        pieces += (text[position:start], new)
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


def removals(members: Sequence[Member], removed: Collection[int]) -> list[Edit]:
    """Edits that take members, by index, out of their object.

    Each removal takes one comma along: the one behind it, or for the last kept run the one before it.
    """
    edits: list[Edit] = []
    last_kept = max((index for index in range(len(members)) if index not in removed), default=-1)
    for index in removed:
        member = members[index]
        if index < last_kept:
            edits.append((member.key_start, members[index + 1].key_start, ""))
        else:
            before = members[index - 1].value_end if index else member.key_start
            edits.append((before, member.value_end, ""))
    return edits


class JsonBody:
    """A JSON object with the spans of its top-level members."""

    __slots__ = ("members", "text", "values")

    def __init__(self, text: str, values: dict[str, Any], members: dict[str, Member]) -> None:
        self.text = text
        self.values = values
        self.members = members

    @classmethod
    def parse(cls, data: bytes) -> JsonBody:
        """Parse a request body.

        Raises:
            InvalidRequest: not UTF-8, not JSON, not an object, or a top-level key that appears twice (two readers
                could take different ones). The message gives the position.
        """
        if len(data) > MAX_VALUES and sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
            raise InvalidRequest(f"The request body has more than {MAX_VALUES} values.", code="invalid_json")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise InvalidRequest(
                f"The request body is not UTF-8: bad byte at position {exc.start}.", code="invalid_json"
            ) from exc
        try:
            values, members = _scan_object(text)
        except json.JSONDecodeError as exc:
            raise InvalidRequest(
                f"The request body is not valid JSON: {exc.msg} at line {exc.lineno}, column {exc.colno} "
                f"(position {exc.pos}).",
                code="invalid_json",
            ) from exc
        except RecursionError as exc:
            raise InvalidRequest("The request body is nested too deeply.", code="invalid_json") from exc
        return cls(text, values, members)

    def size_of(self, key: str) -> int:
        """Characters that the value of `key` takes; 0 when it is absent."""
        member = self.members.get(key)
        return 0 if member is None else member.value_end - member.value_start

    def raw(self, key: str) -> str:
        """The text of a value as it was sent. Raises: KeyError."""
        member = self.members[key]
        return self.text[member.value_start : member.value_end]

    def splice(
        self,
        *,
        replace: dict[str, str] | None = None,
        remove: Iterable[str] = (),
        add: dict[str, str] | None = None,
    ) -> bytes:
        """The body with some top-level members replaced, removed or added; the rest is untouched.

        Args:
            replace: key → JSON text of its new value; must be present.
            remove: keys; absent ones are ignored.
            add: key → JSON text; appended after the last member; must be absent.
        """
        removed = {key for key in remove if key in self.members}
        edits = [
            (self.members[key].value_start, self.members[key].value_end, new) for key, new in (replace or {}).items()
        ]
        if removed:
            edits += removals(list(self.members.values()), {i for i, key in enumerate(self.members) if key in removed})
        additions = [f"{json.dumps(key)}:{value}" for key, value in (add or {}).items()]
        if additions:
            edits.append(self._insertion(additions, empty=len(removed) == len(self.members)))
        return edited(self.text, edits).encode("utf-8")

    def _insertion(self, additions: list[str], *, empty: bool) -> Edit:
        last = next(reversed(self.members.values()), None)
        at = last.value_end if last else self.text.index("{") + 1
        return (at, at, ("" if empty else ",") + ",".join(additions))


def _reject_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


Visit = Callable[[int], int]
"""Walks the value at a position itself, and returns where it ends."""


class Walked(NamedTuple):
    """One member of a walked object. `value` is None as well where a `Visit` has walked it."""

    key: str
    member: Member
    value: Any
    visited: bool


def walk_object(text: str, at: int, visits: Mapping[str, Visit]) -> tuple[list[Walked], int]:
    """The members of the object at `at`, in one pass, and where the object ends. A key may appear twice.

    Args:
        visits: who walks the values of these keys; all others are parsed.
    Raises:
        json.JSONDecodeError, RecursionError.
    """
    found: list[Walked] = []
    at = _end_of(_opening(text, at), text, at, "expected an object, '{'")
    if text[at : at + 1] == "}":
        return found, at + 1
    while True:
        key_match = _key(text, at)
        colon = _end_of(key_match, text, at, "expected a key in double quotes")
        start = _end_of(_colon(text, colon), text, colon, "expected ':'")
        assert key_match is not None  # noqa: S101 - tells the type checker what _end_of made sure of
        key = key_match[1] if "\\" not in key_match[1] else json.loads(f'"{key_match[1]}"')
        visit = visits.get(key)
        value, end = _value_at(text, start) if visit is None else (None, visit(start))
        found.append(Walked(key, Member(at, start, end), value, visit is not None))
        separator = _separator(text, end)
        at = _end_of(separator, text, end, "expected ',' or '}'")
        if separator is not None and separator[1] == "}":
            return found, separator.end(1)


def walk_array(text: str, at: int, visit: Visit) -> int:
    """Have every element of the array at `at` visited; returns where the array ends. Raises as `walk_object`."""
    at = _end_of(_opening_array(text, at), text, at, "expected an array, '['")
    if text[at : at + 1] == "]":
        return at + 1
    while True:
        at = visit(at)
        separator = _separator_in_array(text, at)
        at = _end_of(separator, text, at, "expected ',' or ']'")
        if separator is not None and separator[1] == "]":
            return separator.end(1)


_decoder: Any = json.JSONDecoder(parse_constant=_reject_constant)
_scan_value: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once
_BLANK = r"[ \t\n\r]*"
_opening = re.compile(_BLANK + r"\{" + _BLANK).match
_member = re.compile(r'"((?:[^"\\\x00-\x1f]|\\.)*)"' + _BLANK + ":" + _BLANK).match
_key = re.compile(r'"((?:[^"\\\x00-\x1f]|\\.)*)"' + _BLANK).match
_colon = re.compile(":" + _BLANK).match
_separator = re.compile(_BLANK + "([,}])" + _BLANK).match
_opening_array = re.compile(r"\[" + _BLANK).match
_separator_in_array = re.compile(_BLANK + r"([,\]])" + _BLANK).match


def _scan_object(text: str) -> tuple[dict[str, Any], dict[str, Member]]:
    """Scan one object; values are parsed by the standard library's C scanner.

    Raises:
        json.JSONDecodeError, RecursionError.
    """
    values: dict[str, Any] = {}
    members: dict[str, Member] = {}
    at = _end_of(_opening(text), text, 0, "expected an object, '{'")
    if text[at : at + 1] == "}":
        _expect_end(text, at + 1)
        return values, members
    while True:
        member = _member(text, at)
        if member is None:
            value_start = _end_of(_key(text, at), text, at, "expected a key in double quotes")
            raise json.JSONDecodeError("expected ':'", text, _skip(text, value_start))
        key, value_start = member[1], member.end()
        if "\\" in key:
            key = json.loads(f'"{key}"')
        if len(members) == MAX_MEMBERS:
            raise json.JSONDecodeError(f"more than {MAX_MEMBERS} keys", text, at)
        if key in members:
            raise json.JSONDecodeError(f"the key {key[:40]!r} appears twice", text, at)
        value, value_end = _value_at(text, value_start)
        values[key] = value
        members[key] = Member(at, value_start, value_end)
        separator = _separator(text, value_end)
        if separator is None:
            raise json.JSONDecodeError("expected ',' or '}'", text, _skip(text, value_end))
        at = separator.end()
        if separator[1] == "}":
            _expect_end(text, at)
            return values, members


def _end_of(match: re.Match[str] | None, text: str, at: int, message: str) -> int:
    if match is None:
        raise json.JSONDecodeError(message, text, _skip(text, at))
    return match.end()


def _value_at(text: str, at: int) -> tuple[Any, int]:
    try:
        value, end = _scan_value(text, at)
    except StopIteration as exc:
        raise json.JSONDecodeError("expected a value", text, int(exc.value)) from exc
    except json.JSONDecodeError as exc:
        if exc.doc is text:
            raise
        raise json.JSONDecodeError(exc.msg, text, at) from exc
    except ValueError as exc:  # an integer of more than 4,300 digits
        raise json.JSONDecodeError("the number is too long", text, at) from exc
    return value, end


def _skip(text: str, at: int) -> int:
    return at + len(text[at:]) - len(text[at:].lstrip(" \t\n\r"))


def _expect_end(text: str, at: int) -> None:
    if at == len(text):
        return
    end = _skip(text, at)
    if end != len(text):
        raise json.JSONDecodeError("unexpected text after the object", text, end)
