"""Requests of which both models' outcomes are known: what a guarantee about the quality loss is made from."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Pairs:
    """One row a request; all of length n."""

    ids: tuple[str, ...]
    """Decision ids."""
    score: Floats
    """In [0, 1], higher = teacher. inf: escalates whatever the threshold is; -inf: stays whatever it is."""
    loss: Floats
    """Outcome of the teacher's answer minus that of the student's, in [-1, 1]."""
    weight: Floats
    """1 / the probability with which the request was drawn, by the smallest such weight: 1 and above."""
    tag: tuple[str, ...] = ()
    """The value by which thresholds differ; empty: one threshold for all."""
    most_weight: float = 1.0
    """That a row could have had, whether one has it or not. Were it that of the rows, the stakes would know that no
    heavy row is to come, and a few requests that are rarely drawn, and always lost, would often be overlooked."""
    unseen_from: float = math.inf
    """The lowest score of a request that was escalated and whose student's answer nobody could judge: what is lost by
    keeping requests from there on is not known from these rows, however many they are."""

    def __len__(self) -> int:
        return len(self.loss)

    def part(self, rows: Rows) -> Pairs:
        tags = tuple(self.tag[i] for i in rows) if self.tag else ()
        return replace(
            self, ids=tuple(self.ids[i] for i in rows), score=self.score[rows], loss=self.loss[rows],
            weight=self.weight[rows], tag=tags,
        )  # fmt: skip

    def of_tags(self, values: frozenset[str]) -> Pairs:
        return self.part(np.array([i for i, value in enumerate(self.tag) if value in values], dtype=np.intp))

    @property
    def effective_n(self) -> float:
        """As many rows of equal weight say as much (Kish 1965)."""
        return float(self.weight.sum() ** 2 / np.square(self.weight).sum()) if len(self) else 0.0

    @property
    def heaviest(self) -> float:
        """No row weighs more."""
        return max(self.most_weight, float(self.weight.max(initial=1.0)))

    @property
    def differing(self) -> int:
        """Rows in which one model did better than the other: only they say something about the loss."""
        return int(np.count_nonzero(self.loss))

    def kept_loss(self, threshold: float) -> Floats:
        """What each request loses when scores above `threshold` escalate, [n]."""
        return np.where(self.score <= threshold, self.loss, 0.0)

    def teacher_share(self, threshold: float) -> float:
        return float(np.average(self.score > threshold, weights=self.weight))

    def mean_loss(self, threshold: float) -> float:
        return float(np.average(self.kept_loss(threshold), weights=self.weight))

    def sha256(self) -> str:
        """Of the sorted rows: the same data give the same hash, whatever the order."""
        columns = (self.ids, self.score.tolist(), self.loss.tolist(), self.weight.tolist())
        rows = sorted([name, *map(_number, numbers)] for name, *numbers in zip(*columns, strict=True))
        return hashlib.sha256(msgspec.json.encode(rows)).hexdigest()


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else ("always" if value > 0 else "never")
