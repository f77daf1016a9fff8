"""A labelled set that is asked again and again: its items, its rounds, and whether a round is worse than another.

The answers of two rounds to the same items are compared in pairs, so that a drop of a few items out of 200 is seen
where the two shares by themselves would overlap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from policies.base import Route
from policies.grading import Grader
from policies.intervals import Estimate, Moments, proportion

CONFIDENCE = 0.999
"""Of the interval of a drop: with a round every six hours a false alarm comes in ten months."""
MIN_DROP = 0.01
MAX_LINE_BYTES = 2**20


class RegressionError(ValueError):
    """The set cannot be used. The message names file, line and the fix."""


class Item(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the file."""

    messages: list[dict[str, Any]]
    label: str
    """The right answer, in the form that the grader compares."""
    grader: Grader = "exact"

    @property
    def identity(self) -> str:
        """Of its content: an item that was edited is another one."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]


def load_items(path: Path, max_items: int) -> list[Item]:
    """The first items of a JSON Lines file, each once. Raises: RegressionError."""
    items: dict[str, Item] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if len(items) == max_items:
                    break
                if line.strip():
                    item = _item(line, f"{path}:{number}")
                    items[item.identity] = item
    except OSError as exc:
        raise RegressionError(f"{path}: cannot be read: {exc.strerror}") from exc
    if not items:
        raise RegressionError(f'{path}: has no item; a line is {{"messages": [...], "label": "..."}}')
    return list(items.values())


def _item(line: bytes, place: str) -> Item:
    if len(line) > MAX_LINE_BYTES:
        raise RegressionError(f"{place}: is longer than {MAX_LINE_BYTES} bytes")
    try:
        item = msgspec.json.decode(line, type=Item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RegressionError(f"{place}: is no item: {exc}") from exc
    if not item.messages or not item.label.strip():
        raise RegressionError(f"{place}: messages and label must not be empty")
    return item


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One model was asked the whole set."""

    started_s: float
    duration_s: float
    route: Route
    model: str
    """Bundle id of the student; the teacher's model."""
    right: tuple[str, ...]
    """Identities of items."""
    wrong: tuple[str, ...]
    failed: int = 0
    """Items without an answer: they count neither way."""
    left_out: int | None = None
    """Items that the student was trained on; None: nobody knows, its bundle does not say."""

    @property
    def score(self) -> Estimate | None:
        """None when nothing was answered."""
        n = len(self.right) + len(self.wrong)
        return proportion(len(self.right), n) if n else None

    def as_json(self) -> dict[str, Any]:
        """Without the items."""
        score = self.score
        return {
            "started_s": self.started_s,
            "duration_s": self.duration_s,
            "route": self.route,
            "model": self.model,
            "score": None if score is None else score.as_json(),
            "failed": self.failed,
            "left_out": self.left_out,
        }


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    """A round against an earlier one."""

    against_model: str
    against_s: float
    difference: dict[str, float | int]
    """Of the shares of right answers, on the items of both; negative = worse. At CONFIDENCE."""
    alarm: bool


def compare(last: Round, before: Round) -> Drop | None:
    """None: they have no item in common."""
    now, then = _outcomes(last), _outcomes(before)
    moments = Moments()
    for item in now.keys() & then.keys():
        moments.add(float(now[item]) - float(then[item]))
    estimate = moments.estimate("difference", CONFIDENCE)
    if estimate is None:
        return None
    return Drop(
        against_model=before.model,
        against_s=before.started_s,
        difference=estimate.as_json(),
        alarm=estimate.high < 0 and estimate.value <= -MIN_DROP,
    )


def drops(rounds: Sequence[Round]) -> list[Drop]:
    """The last round of the student against its own first one, and against the last one of the student before.

    Args:
        rounds: the newest first.
    """
    mine = [each for each in rounds if each.route == "student"]
    if not mine:
        return []
    last = mine[0]
    own = [each for each in mine[1:] if each.model == last.model]
    others = [each for each in mine[1:] if each.model != last.model]
    compared = [compare(last, each) for each in (*own[-1:], *others[:1])]
    return [each for each in compared if each is not None]


def _outcomes(of: Round) -> dict[str, bool]:
    return dict.fromkeys(of.right, True) | dict.fromkeys(of.wrong, False)
