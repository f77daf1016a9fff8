"""Thresholds with a guarantee: with probability `confidence` the quality lost is at most `max_quality_loss`.

Learn-then-Test (Angelopoulos et al. 2021) with a fixed sequence: the thresholds of a grid that no label has seen, from
the one that sends all to the teacher to the one that sends nothing, each tested by `betting.proves` at the full level
until the first that fails. The last that passed is the result. It breaks the promise only when the first threshold of
the sequence that loses too much passes its test, which happens with a probability of at most 1 - confidence; what is
tested before or after it does not add to that.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from trainer.tune.betting import proves
from trainer.tune.pairs import Pairs

Floats = NDArray[np.float64]

METHOD = "learn-then-test, fixed sequence, hedged betting/1"


def grid(steps: int) -> Floats:
    """Thresholds that are the same for any data, from the safest on: equal steps of the log odds."""
    return np.concatenate([[0.0], 1.0 / (1.0 + np.exp(-np.linspace(-12.0, 12.0, steps + 1))), [1.0]])


GRID: Floats = grid(480)
"""That are tested one after the other: 5 % of the odds apart. A finer one takes half a percent less to the teacher, and
three times as long."""
FINE_GRID: Floats = grid(4800)
"""From which one is taken."""
AT_ONCE = 48
"""Thresholds that are tested together: more work past the first that fails, fewer rounds."""
POWER = 0.8
"""`more labels` means: so many that the test passes with this probability, if they are like those there are."""
DRAWS = 200
MAX_LABELS = 1_000_000


@dataclass(frozen=True)
class Promise:
    """What is to hold."""

    max_quality_loss: float
    """In outcome units: 0.01 = one point of accuracy."""
    confidence: float

    def __post_init__(self) -> None:
        if not (0.0 < self.max_quality_loss < 1.0 and 0.0 < self.confidence < 1.0):
            raise ValueError("max_quality_loss and confidence are between 0 and 1")

    @property
    def level(self) -> float:
        return 1.0 - self.confidence

    def shared_by(self, groups: int) -> Promise:
        """For each of several groups, so that it holds for all of them at once (Bonferroni)."""
        return Promise(self.max_quality_loss, 1.0 - self.level / groups)

    @property
    def least_labels(self) -> int:
        """Below, not even rows without any loss prove anything."""
        return proving_rows(self)


@dataclass(frozen=True)
class Certified:
    """A threshold that keeps the promise."""

    threshold: float
    n: int
    effective_n: float
    teacher_share: float
    """On the rows."""
    quality_loss: float
    """On the rows: an estimate; the promise is the bound."""


class NotCertified(ValueError):
    """No threshold is proven to keep the promise within the limits. `missing` = about how many more labels it takes;
    None = it is infeasible: more labels are not expected to help."""

    def __init__(self, message: str, missing: int | None) -> None:
        super().__init__(message)
        self.missing = missing


def certified(pairs: Pairs, promise: Promise, seed: int = 0) -> Certified | None:
    """The largest threshold of the grid up to which all pass; None: not even the first does.

    Args:
        pairs: n rows; the grid, the score and the seed were chosen without their losses.
    """
    shuffled = _shuffled(pairs, seed)
    passed: float | None = None
    for tested in _chunks(shuffled):
        passes = _passes(shuffled, tested, promise)
        failed = np.flatnonzero(~passes)
        last = int(failed[0]) if failed.size else len(tested)
        passed = float(tested[last - 1]) if last else passed
        if failed.size:
            break
    if passed is None:
        return None
    return Certified(passed, len(pairs), pairs.effective_n, pairs.teacher_share(passed), pairs.mean_loss(passed))


def _chunks(pairs: Pairs) -> list[Floats]:
    """The grid in parts, up to where the rows know what is kept, without thresholds that keep the same rows as the one
    before: their test is the same."""
    known = GRID[pairs.unseen_from > GRID]
    if not known.size:
        return []
    kept = np.searchsorted(np.sort(pairs.score), known, side="right")
    # Of equal tests the last stands for all: if it passes, so do those before it.
    distinct = known[np.append(np.flatnonzero(np.diff(kept)), len(known) - 1)]
    return np.array_split(distinct, max(1, -(-len(distinct) // AT_ONCE)))


def _passes(pairs: Pairs, thresholds: Floats, promise: Promise) -> NDArray[np.bool_]:
    gains = np.stack([promise.max_quality_loss - pairs.kept_loss(threshold) for threshold in thresholds.tolist()])
    return _proves(gains, pairs, 1.0 - promise.max_quality_loss, promise.level)


def _proves(gains: Floats, pairs: Pairs, most: float, level: float) -> NDArray[np.bool_]:
    """Whether the weighted mean of gains [..., n], none below -most, is above 0.

    A row that was drawn with probability p counts 1 / p times; the sum over the drawn rows is then right on average for
    all of the traffic, and so is its sign, which is all that is tested.
    """
    return proves(gains * pairs.weight, lowest=-most * pairs.heaviest, level=level)


def _shuffled(pairs: Pairs, seed: int) -> Pairs:
    """In an order that has nothing to do with the losses; the same for the same rows, whatever theirs was."""
    rows = sorted(range(len(pairs)), key=lambda row: pairs.ids[row])
    random.Random(seed).shuffle(rows)  # noqa: S311 - reproducible, no secret
    return pairs.part(np.array(rows, dtype=np.intp))


def loss_bound(pairs: Pairs, threshold: float, confidence: float, seed: int = 0) -> float:
    """The quality lost at this threshold is at most that, with probability `confidence`.

    Every larger loss of a grid was refuted, one after the other from 1 down (a fixed sequence again).
    """
    shuffled = _shuffled(pairs, seed)
    lost = shuffled.kept_loss(threshold)
    bound = 1.0
    for losses in np.array_split(np.linspace(1.0, -1.0, 801)[1:], 16):
        gains = losses[:, None] - lost
        refuted = _proves(gains, shuffled, 1.0 - float(losses.min()), 1.0 - confidence)
        failed = np.flatnonzero(~refuted)
        last = int(failed[0]) if failed.size else len(losses)
        bound = float(losses[last - 1]) if last else bound
        if failed.size:
            break
    return bound


def too_much(pairs: Pairs, threshold: float, promise: Promise, seed: int = 0) -> bool:
    """Whether it is proven, at the same confidence, that the threshold loses more than promised."""
    shuffled = _shuffled(pairs, seed)
    excess = shuffled.kept_loss(threshold) - promise.max_quality_loss
    return bool(_proves(excess, shuffled, 1.0 + promise.max_quality_loss, promise.level))


def labels_needed(pairs: Pairs, threshold: float, promise: Promise, seed: int = 0) -> int | None:
    """Labels, those there are included, with which the threshold passes in POWER of the cases; None: it never will.

    Rows are drawn again from those there are: what they say about the loss is taken for the truth.
    """
    gains = promise.max_quality_loss - pairs.kept_loss(threshold)
    mean = float(np.average(gains, weights=pairs.weight))
    if mean <= 0:
        return None
    variance = float(np.average(np.square(gains - mean) * pairs.weight, weights=pairs.weight))
    normal = NormalDist()
    z = normal.inv_cdf(promise.confidence) + normal.inv_cdf(POWER)
    n = max(promise.least_labels, math.ceil(z * z * variance / (mean * mean)))
    generator = np.random.default_rng(seed)
    most = 1.0 - promise.max_quality_loss
    while n < MAX_LABELS:
        drawn = generator.integers(len(pairs), size=(min(DRAWS, max(20, 4_000_000 // n)), n))
        values = gains[drawn] * pairs.weight[drawn]
        passed = proves(values, lowest=-most * pairs.heaviest, level=promise.level)
        if passed.mean() >= POWER:
            return n
        n = math.ceil(1.1 * n)
    return None


def proving_rows(promise: Promise) -> int:
    """How many rows without any loss it takes at least."""
    low, high = 1, 1
    while not _all_gain(promise, high):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _all_gain(promise, middle) else (middle + 1, high)
    return high


def _all_gain(promise: Promise, n: int) -> bool:
    gains = np.full(n, promise.max_quality_loss)
    return bool(proves(gains, lowest=promise.max_quality_loss - 1.0, level=promise.level))


def groups_of(pairs: Pairs, promise: Promise) -> list[frozenset[str]]:
    """Values of the tag that get a threshold of their own, each by itself, and the rest as the last one.

    By the number of labels only, not by what they say: then the promise may be shared among the groups.
    """
    counts = Counter(pairs.tag)
    names = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    own: list[str] = []
    for name in names:
        if counts[name] < 2 * promise.shared_by(len(own) + 2).least_labels:
            break
        own.append(name)
    return [*(frozenset({name}) for name in own), frozenset(counts) - set(own)]
