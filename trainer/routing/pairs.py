"""The cascade's score against the frozen reference, over every pair of models in a file.

One pair's figure has a standard deviation of several points, so what counts is many pairs with a paired bootstrap: the
same questions are resampled for both scores and for all pairs, and the interval of a median over pairs holds that they
share their questions. Each pair is kept as soon as it is measured: an interrupted measurement goes on.
"""

from __future__ import annotations

import csv
import gzip
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from policies.artefact import replace_file
from trainer.routing import folds
from trainer.routing.crossfit import cross_fit
from trainer.routing.figures import Estimate, Resamples, interval, samples
from trainer.routing.groups import near_duplicates
from trainer.routing.learner import Learner
from trainer.routing.outcomes import Floats, Ints, Outcomes
from trainer.routing.reading import Columns, read

FOLDS = 5
RESAMPLES = 500
SHARE = 0.2
RIGHT = "|correct"
TYPICAL_GAP = 0.05
"""Pairs with about this gap are measured first."""
SIGNALS = ("logit", "verbal", "tokens")
"""Of the weak model's answer."""
TAG = "tag.category=category"
"""What an application may say of a request: here the subject of the question."""
FIGURES = ("apgr", "cpt80", "cpt80_exact", "recovered", "points_left", "auroc_strong_better", "auroc_weak_wrong", "ece")


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement."""

    weak: str
    strong: str
    n: int
    accuracy: tuple[float, float]
    """Of weak and strong."""
    figures: dict[str, dict[str, Estimate]]
    """Learner -> figure."""
    differences: dict[str, Estimate]
    """The first learner less the second, paired."""
    drawn: dict[str, list[float | None]]
    """Learner -> gap recovered at SHARE: on the questions, then on each resample; None without a gap."""
    seconds: float

    @property
    def gap_points(self) -> float:
        return 100 * (self.accuracy[1] - self.accuracy[0])


@dataclass(frozen=True, eq=False)
class Questions:
    """What all pairs of a file share."""

    path: Path
    accuracy: dict[str, float]
    """Of each model."""
    groups: Ints
    fold_of: Ints

    @classmethod
    def of(cls, path: Path, seed: int) -> Questions:
        """The folds are the same for all pairs, so they know no outcomes."""
        accuracy = accuracies(path)
        models = list(accuracy)
        rows = read(path, Columns(weak=f"{models[0]}|correct", strong=f"{models[1]}|correct", text="prompt"))
        groups = near_duplicates(rows)
        nothing = np.zeros(len(rows))
        return cls(
            path, accuracy, groups, folds.assign(replace(rows, weak=nothing, strong=nothing), groups, FOLDS, seed)
        )

    def rows(self, weak: str, strong: str) -> Outcomes:
        signals = (*(f"{weak}|{name}" for name in SIGNALS), TAG)
        return read(
            self.path, Columns(weak=f"{weak}|correct", strong=f"{strong}|correct", text="prompt", signals=signals)
        )

    def pairs(self) -> list[tuple[str, str]]:
        """Every pair whose strong model is better, by the gap: those of about 5 points first."""
        accuracy = self.accuracy
        found = [(a, b) for a in accuracy for b in accuracy if accuracy[b] > accuracy[a]]
        return sorted(found, key=lambda pair: abs(accuracy[pair[1]] - accuracy[pair[0]] - TYPICAL_GAP))


def accuracies(path: Path) -> dict[str, float]:
    """Of every model with a column `MODEL|correct`."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        places = {name.removesuffix(RIGHT): at for at, name in enumerate(next(reader)) if name.endswith(RIGHT)}
        table = [[float(row[at]) for at in places.values()] for row in reader]
    return dict(zip(places, np.mean(table, axis=0).tolist(), strict=True))


def measure(questions: Questions, weak: str, strong: str, learners: Sequence[Learner], seed: int) -> Pair:
    """Args: learners: the one that is measured, and the one that it is measured against."""
    started = time.process_time()
    rows = questions.rows(weak, strong)
    scores = cross_fit(rows, learners, questions.groups, questions.fold_of, seed=seed, processes=1)
    resamples = Resamples(questions.groups, seed, RESAMPLES)
    found = {name: samples(rows, score, resamples, SHARE, probability=True) for name, score in scores.items()}
    one, other = (found[learner.name] for learner in learners)
    return Pair(
        weak=weak,
        strong=strong,
        n=len(rows),
        accuracy=(float(rows.weak.mean()), float(rows.strong.mean())),
        figures={name: {figure: interval(each[figure]) for figure in FIGURES} for name, each in found.items()},
        differences={figure: interval(one[figure] - other[figure]) for figure in FIGURES},
        drawn={name: _listed(each["recovered"]) for name, each in found.items()},
        seconds=round(time.process_time() - started, 1),
    )


def measured(
    questions: Questions,
    learners: Sequence[Learner],
    seed: int,
    folder: Path,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Iterator[tuple[int, int, Pair]]:
    """(number, of how many, pair); each is kept in the folder, which is that of one state of data and code.

    Args:
        pairs: weak and strong model of each; default: all.
    """
    pairs = questions.pairs() if pairs is None else pairs
    for number, (weak, strong) in enumerate(pairs, start=1):
        path = folder / f"{weak} to {strong}, seed {seed}.json".replace("/", "_")
        if path.exists():
            yield number, len(pairs), msgspec.json.decode(path.read_bytes(), type=Pair)
            continue
        pair = measure(questions, weak, strong, learners, seed)
        replace_file(path, msgspec.json.encode(pair))
        yield number, len(pairs), pair


class Median(msgspec.Struct, frozen=True):
    """The gap recovered at SHARE, median over pairs, with the interval over the questions."""

    pairs: int
    better: int
    """Pairs of which the first learner recovers more."""
    significant: tuple[int, int]
    """Pairs whose paired interval lies above 0, and below."""
    one: Estimate
    other: Estimate
    difference: Estimate


def median(pairs: Sequence[Pair], one: str, other: str) -> Median:
    """Over these pairs; a resample in which a pair has no gap leaves that pair out of it."""
    tables = [_medians(pairs, name) for name in (one, other)]
    changes = [pair.differences["recovered"] for pair in pairs]
    return Median(
        pairs=len(pairs),
        better=sum((change.estimate or 0.0) > 0 for change in changes),
        significant=(
            sum(change.low is not None and change.low > 0 for change in changes),
            sum(change.high is not None and change.high < 0 for change in changes),
        ),
        one=interval(tables[0]),
        other=interval(tables[1]),
        difference=interval(tables[0] - tables[1]),
    )


def _medians(pairs: Sequence[Pair], learner: str) -> Floats:
    """[1 + RESAMPLES]"""
    columns = zip(*(pair.drawn[learner] for pair in pairs), strict=True)
    known = [[value for value in column if value is not None] for column in columns]
    return np.array([statistics.median(values) if values else np.nan for values in known])


def _listed(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 5) for value in values]
