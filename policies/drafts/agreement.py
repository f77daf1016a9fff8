"""How far two answers to one request say the same, in [0, 1].

What is compared depends on what was asked for: a letter with a letter, a number with a number, a label with a label,
calls by their arguments, JSON by its values. Other texts are compared word by word: a measure that needs no model, sees
no synonyms, and is 1 only for the same words.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from policies.drafts.asked_form import asked_answer
from policies.drafts.validity import MAX_JSON_CHARS, Answer, Asked, Call
from policies.grading import normal

MAX_CHARS = 20_000
"""Of each text that is compared by its words."""
MAX_VALUES = 2_000
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")
"""A word; a single character where a script does not part them."""


def agreement(asked: Asked, first: Answer, second: Answer) -> float:
    """1: the two say the same, 0: they have nothing in common."""
    if first.calls or second.calls:
        return _f1(Counter(map(_call, first.calls)), Counter(map(_call, second.calls)))
    one, other = first.text or "", second.text or ""
    if asked.form.kind in ("choice", "number", "label") and asked.schema is None:
        said = asked_answer(asked.form, one), asked_answer(asked.form, other)
        if None in said:
            return 0.0
        return float(_same_number(*said) if asked.form.kind == "number" else said[0] == said[1])
    if asked.schema is not None or asked.form.kind == "json":
        values = _json_in(one), _json_in(other)
        if values[0] is not None and values[1] is not None:
            return _f1(Counter(_leaves(values[0])), Counter(_leaves(values[1])))
    return _f1(Counter(_words(one)), Counter(_words(other)))


def _words(text: str) -> list[str]:
    return _WORD.findall(normal(text[:MAX_CHARS]))


def _f1(first: Counter[Any], second: Counter[Any]) -> float:
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 1.0


def _same_number(one: str | None, other: str | None) -> bool:
    try:
        return math.isclose(float(one or ""), float(other or ""), rel_tol=1e-6)
    except ValueError:  # a word
        return one == other


def _call(call: Call) -> tuple[str, str]:
    value = _json_in(call.arguments)
    return call.name, call.arguments if value is None else json.dumps(value, sort_keys=True)


def _json_in(text: str) -> Any:
    """None: there is none; `null` says as little."""
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    end = max(text.rfind("}"), text.rfind("]"))
    if not starts or not min(starts) < end or len(text) > MAX_JSON_CHARS:
        return None
    try:
        return json.loads(text[min(starts) : end + 1])
    except (ValueError, RecursionError):
        return None


def _leaves(value: Any) -> list[tuple[str, str]]:
    """Every value with where it stands. The order of a list does not count."""
    found: list[tuple[str, str]] = []
    for leaf in _walk(value):
        found.append(leaf)
        if len(found) == MAX_VALUES:
            break
    return found


def _walk(root: Any) -> Iterator[tuple[str, str]]:
    """Without recursion: how deep it is is up to the model."""
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend((f"{place}/{key}", each) for key, each in value.items())
        elif isinstance(value, list):
            waiting.extend((f"{place}/-", each) for each in value)
        else:
            yield place, normal(value) if isinstance(value, str) else repr(value)
