"""How sure an answer says that it is: read where a pattern or a JSON field of the operator's finds it."""

from __future__ import annotations

import json
import math
import re
from typing import NamedTuple, Self

MAX_CHARS = 8_000
"""Of the end of an answer, where confidences are stated; JSON is read whole, up to ten times as much."""
_NUMBER = re.compile(r"\s*(\d{1,3}(?:[.,]\d{1,6})?)\s*(%|/\s*(?:100|10)\b)?")


class ConfidenceReader(NamedTuple):
    """`of` makes one; `read` finds the confidence in an answer."""

    pattern: re.Pattern[str] | None
    field: str | None

    @classmethod
    def of(cls, pattern: str | None, field: str | None) -> Self | None:
        """None: neither is configured. Raises: ValueError: the pattern is none, or has not exactly one group."""
        if pattern is None and field is None:
            return None
        try:
            compiled = re.compile(pattern, re.IGNORECASE) if pattern is not None else None
        except re.error as exc:
            raise ValueError(f"is no regular expression: {exc}") from exc
        if compiled is not None and compiled.groups != 1:
            raise ValueError("must have exactly one group, which is the number")
        return cls(compiled, field)

    def read(self, text: str | None) -> float | None:
        """In [0, 1]: `0.8`, `80%`, `80 / 100` and `8/10` are the same; None: none is stated that makes sense."""
        if not text:
            return None
        if self.field is not None:
            found = _in_field(text, self.field)
            if found is not None:
                return found
        if self.pattern is None:
            return None
        matches = self.pattern.findall(text[-MAX_CHARS:])
        return _share(str(matches[-1])) if matches else None


def _in_field(text: str, field: str) -> float | None:
    start, end = text.find("{"), text.rfind("}")
    if not 0 <= start < end or end - start > 10 * MAX_CHARS:
        return None
    try:
        value = json.loads(text[start : end + 1]).get(field)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return _share(str(value))


def _share(text: str) -> float | None:
    match = _NUMBER.match(text)
    if match is None:
        return None
    value, unit = float(match[1].replace(",", ".")), match[2] or ""
    if unit:
        value /= 10 if unit.endswith("/10") or unit.split("/")[-1].strip() == "10" else 100
    elif value > 1.0:
        value /= 100
    return value if math.isfinite(value) and 0.0 <= value <= 1.0 else None
