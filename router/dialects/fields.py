"""Reads requests that are written in another dialect than chat. Every complaint names its field and the fix."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from router.errors import InvalidRequest

Json: TypeAlias = dict[str, Any]
"""A JSON object on its way from one wire format to the other."""

MAX_PARTS = 65_536
"""Messages and content parts together: a bound on the time that one translation can take from all other requests."""


def wrong(param: str, complaint: str) -> InvalidRequest:
    """An error about the field `param`; the complaint continues the sentence that the name begins."""
    return InvalidRequest(f"{param} {complaint}", param=param)


def text_at(values: Mapping[str, Any], key: str, at: str = "") -> str:
    """A required string. Raises: InvalidRequest."""
    value = values.get(key)
    if not isinstance(value, str):
        raise wrong(f"{at}{key}", "is required and must be a string.")
    return value


def optional_text(values: Mapping[str, Any], key: str, at: str = "") -> str | None:
    """A string, or None where it is absent or null. Raises: InvalidRequest."""
    return None if values.get(key) is None else text_at(values, key, at)


def object_of(value: Any, param: str) -> Json:
    """Raises: InvalidRequest: not an object."""
    if not isinstance(value, dict):
        raise wrong(param, "must be an object.")
    return value


def objects_of(value: Any, param: str) -> list[Json]:
    """Raises: InvalidRequest: not a list of objects, or too long a one."""
    if not isinstance(value, list):
        raise wrong(param, "must be a list.")
    if len(value) > MAX_PARTS:
        raise wrong(param, f"has more than {MAX_PARTS} elements.")
    for index, item in enumerate(value):
        object_of(item, f"{param}.{index}")
    return value


def flag(value: Any, param: str) -> bool:
    """A boolean; null counts as false. Raises: InvalidRequest."""
    if value is not None and not isinstance(value, bool):
        raise wrong(param, "must be true or false.")
    return value is True


def whole_number(value: Any, param: str) -> int:
    """A whole number of at least 1. Raises: InvalidRequest."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise wrong(param, "is required and must be a whole number of at least 1.")
    return value


def refuse_set(values: Mapping[str, Any], reasons: Mapping[str, str], at: str = "") -> None:
    """Refuse fields that a translation would drop although they change the meaning. Raises: InvalidRequest.

    Args:
        reasons: field → the complaint. null and false count as absent.
    """
    for key, complaint in reasons.items():
        if values.get(key) not in (None, False):
            raise wrong(f"{at}{key}", complaint)


def unknown(values: Mapping[str, Any], known: Collection[str]) -> Json:
    """The fields that are not of the dialect: they go on to the backend as they are."""
    return {key: value for key, value in values.items() if key not in known}


def json_text(value: Any, param: str) -> str:
    """Compact JSON. Raises: InvalidRequest for a number beyond the range of doubles, which was read as infinite."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError as exc:
        raise wrong(param, "holds a number that is too large.") from exc


class PartCount:
    """Counts the parts of one request while they are translated."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, count: int, param: str) -> None:
        """Raises: InvalidRequest: more than MAX_PARTS."""
        self._count += count
        if self._count > MAX_PARTS:
            raise wrong(param, f"has more than {MAX_PARTS} messages and parts.")
