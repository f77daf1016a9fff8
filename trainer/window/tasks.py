"""Tasks whose answers code can judge exactly, in families that go wrong in different ways.

A student of 135 million parameters gets a part of each right as it is. Every question comes behind worked ones, as
turns of the conversation.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from trainer.window import lists, quotes, tickets

Form = Literal["text", "json"]


class Task(NamedTuple):
    """One question."""

    task_id: str
    kind: str
    messages: list[dict[str, str]]
    answer: str
    form: Form = "text"


class Family(NamedTuple):
    """Tasks of one sort."""

    about: str
    """For the report: what is asked."""
    kinds: Mapping[str, Callable[[random.Random], tuple[str, str]]]
    """Kind → question and right answer; taken in turns."""
    shots: int
    """Worked questions before the one that is asked."""
    mixed_sets: int = 0
    """They are of kinds by lot, in so many sets, since the kind is what has to be found out and a student prefers some
    by what it was shown; 0: all are of the kind that is asked, always the same."""
    form: Form = "text"


FAMILIES: dict[str, Family] = {
    "lists": Family("repeats lists of numbers, times and prices", lists.KINDS, 2),
    "tickets": Family("files customers' messages as JSON records", tickets.KINDS, 6, mixed_sets=8, form="json"),
    "quotes": Family("quotes one of two or three notes about orders", quotes.KINDS, 4),
}


def tasks(name: str, count: int, seed: int = 0) -> list[Task]:
    """The first `count` of a family's endless list; a longer list begins with a shorter one."""
    family = FAMILIES[name]
    found = []
    for number in range(count):
        kind = list(family.kinds)[number % len(family.kinds)]
        messages = []
        for asked, answer in _shots(family, kind, number, seed):
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        question, answer = family.kinds[kind](_draw(f"{seed}/{number}"))
        messages.append({"role": "user", "content": question})
        found.append(Task(f"{kind}-{number}", kind, messages, answer, family.form))
    return found


def _shots(family: Family, kind: str, number: int, seed: int) -> list[tuple[str, str]]:
    """Worked questions before the task of this number."""
    if not family.mixed_sets:
        return [family.kinds[kind](_draw(f"{seed}/{kind}/{shot}")) for shot in range(family.shots)]
    draw = _draw(f"{seed}/set/{number // len(family.kinds) % family.mixed_sets}")
    return [family.kinds[shown](draw) for shown in draw.sample(list(family.kinds), family.shots)]


def _draw(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - reproducible, no secret


class _Labelled(msgspec.Struct):
    id: str
    messages: list[dict[str, str]]
    label: str


def labelled(file: Path) -> list[Task]:
    """Tasks of one's own: lines of JSON with `id`, `messages` and the `label` that is the right answer.

    Raises: msgspec.DecodeError, OSError.
    """
    rows = msgspec.json.Decoder(_Labelled).decode_lines(file.read_bytes())
    return [Task(row.id, "labelled", row.messages, row.label) for row in rows]


def is_right(task: Task, text: str) -> bool:
    """The whole answer: as text, blanks and a last full stop apart; as JSON, the same value."""
    if task.form == "text":
        return _bare(text) == _bare(task.answer)
    try:
        return bool(json.loads(text) == json.loads(task.answer))
    except ValueError:
        return False


def _bare(text: str) -> str:
    return "".join(text.split()).rstrip(".").lower()
