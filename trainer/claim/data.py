"""BANKING77, divided: no row that trains or tunes is ever tested on.

The two files share a few questions word by word; the test set stays whole, and the report says how many (`repeated`).
Casanueva et al. 2020, CC BY 4.0. The folder holds train.csv (10,003 rows) and test.csv (3,080), columns text,category.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.claim.settings import SYSTEM_PROMPT, Size
from trainer.similarity.texts import normalise

GROUPS = (
    ("top up", ("top_up", "topping")),
    ("transfer", ("transfer", "beneficiary", "receiving_money")),
    ("cash", ("cash", "atm")),
    ("exchange", ("exchange", "currency", "country", "currencies")),
    ("identity", ("identity", "verify", "personal", "passcode", "age_limit", "terminate", "phone")),
    ("payment", ("payment", "debit", "charged", "refund", "Refund", "charge")),
    ("card", ("card", "pin", "contactless", "visa", "apple")),
)
"""Intents are pooled into these for the gate's categories: 77 with five cases each could not be judged."""


class DataError(ValueError):
    """The data folder cannot be used."""


@dataclass(frozen=True)
class Case:
    """One labelled request."""

    id: str
    text: str
    label: str

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": self.text}]

    @property
    def category(self) -> str:
        return next((name for name, cues in GROUPS if any(cue in self.label for cue in cues)), "other")


@dataclass(frozen=True)
class Division:
    """Who sees what. The labels of `traffic` are used by nobody."""

    teacher: tuple[Case, ...]
    traffic: tuple[Case, ...]
    evaluation: tuple[Case, ...]
    tuning: tuple[Case, ...]
    test: tuple[Case, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted({case.label for case in self.teacher}))


def divide(folder: Path, size: Size) -> Division:
    """Shuffle train.csv by a fixed seed and cut it; take test.csv as it stands.

    Raises:
        DataError: a file is missing, has other columns, or too few rows.
    """
    rows = _read(folder / "train.csv", "train")
    random.Random(0).shuffle(rows)  # noqa: S311 - a reproducible division, no secret
    parts: list[tuple[Case, ...]] = []
    for count in (size.teacher_labels, size.traffic, size.evaluation, size.tuning):
        parts.append(tuple(rows[:count]))
        rows = rows[count:]
        if len(parts[-1]) < count:
            raise DataError(f"{folder / 'train.csv'} has too few rows for this division")
    test = _read(folder / "test.csv", "test")
    if size.test is not None:
        random.Random(0).shuffle(test)  # noqa: S311
        test = test[: size.test]
    teacher, traffic, evaluation, tuning = parts
    return Division(teacher, traffic, evaluation, tuning, tuple(test))


def repeated(division: Division) -> int:
    """How many test questions stand in the training rows too, case and spacing aside."""
    known = {normalise(case.text) for case in (*division.teacher, *division.traffic, *division.tuning)}
    return sum(normalise(case.text) in known for case in division.test)


def write_cases(path: Path, cases: Iterable[Case]) -> str:
    """The JSONL of an evaluation set: id, messages, label, category. Returns its sha256."""
    lines = [
        json.dumps({"id": case.id, "messages": case.messages, "label": case.label, "category": case.category})
        for case in cases
    ]
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def fingerprint(folder: Path) -> dict[str, str]:
    """sha256 of the files, for the report."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("train.csv", "test.csv")}


def accuracy(cases: Sequence[Case], answers: dict[str, str]) -> float:
    return sum(is_right(case, answers.get(case.id, "")) for case in cases) / len(cases)


def is_right(case: Case, answer: str) -> bool:
    return answer.strip() == case.label


def _read(path: Path, prefix: str) -> list[Case]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if missing := {"text", "category"} - set(reader.fieldnames or ()):
                raise DataError(f"{path}: the column {sorted(missing)[0]!r} is missing")
            cases = [Case(f"{prefix}-{n}", row["text"], row["category"]) for n, row in enumerate(reader)]
    except FileNotFoundError as exc:
        raise DataError(f"{path} is missing; DATA must name a folder with train.csv and test.csv") from exc
    if not cases:
        raise DataError(f"{path} has no rows")
    return cases
