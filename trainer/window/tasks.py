"""Lists to repeat: what a student of 135 million parameters gets right in a part of the cases as it is.

Its answers have 10 to 160 tokens, and what goes wrong goes wrong early, late or not at all, and cannot be mended later.
Every question comes behind two worked ones, as turns of the conversation. How long a list is, is drawn with it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

Example = tuple[str, str]
"""Question and right answer."""


class Task(NamedTuple):
    """One question."""

    task_id: str
    kind: str
    messages: list[dict[str, str]]
    answer: str


def numbers(draw: random.Random) -> Example:
    """One or two digits each."""
    return _copied("list", [str(draw.randint(1, 99)) for _ in range(draw.randint(4, 16))])


def long_numbers(draw: random.Random) -> Example:
    """Four digits each."""
    return _copied("list", [str(draw.randint(1000, 9999)) for _ in range(draw.randint(5, 26))])


def times(draw: random.Random) -> Example:
    """Times of a day."""
    return _copied("list of times", [f"{draw.randint(0, 23):02}:{draw.randint(0, 59):02}" for _ in _items(draw)])


def prices(draw: random.Random) -> Example:
    """Amounts in dollars."""
    return _copied("list of prices", [f"${draw.randint(1, 99)}.{draw.randint(0, 99):02}" for _ in _items(draw)])


def _items(draw: random.Random) -> range:
    return range(draw.randint(4, 22))


def _copied(what: str, items: list[str]) -> Example:
    listed = ", ".join(items)
    return f"Repeat this {what}: {listed}", listed


KINDS: dict[str, Callable[[random.Random], Example]] = {
    "numbers": numbers,
    "long_numbers": long_numbers,
    "times": times,
    "prices": prices,
}


def tasks(count: int, seed: int = 0) -> list[Task]:
    """The first `count` of an endless list; a longer list begins with a shorter one."""
    found = []
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        make = KINDS[kind]
        messages = []
        for shot in range(2):
            asked, answer = make(random.Random(f"{seed}/{kind}/{shot}"))  # noqa: S311 - reproducible, no secret
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        question, answer = make(random.Random(f"{seed}/{number}"))  # noqa: S311
        messages.append({"role": "user", "content": question})
        found.append(Task(f"{kind}-{number}", kind, messages, answer))
    return found


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
    """The whole answer, blanks and a last full stop apart."""
    return _bare(text) == _bare(task.answer)


def _bare(text: str) -> str:
    return "".join(text.split()).rstrip(".").lower()
