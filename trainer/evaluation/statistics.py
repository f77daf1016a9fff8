"""The statistics of an evaluation, in numpy: paired binary outcomes, intervals, bootstrap, calibration.

What the gate decides by is in `noninferiority`.

Student and teacher answer the same cases, so everything that compares them is paired. With `lost` = cases that only
the reference got right and `won` = cases that only the student got right, the difference is (won - lost) / n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies.intervals import proportion

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Pairs:
    """Outcomes of two systems on the same cases."""

    n: int
    won: int
    """Only the student is right."""
    lost: int
    """Only the reference is right."""

    def __post_init__(self) -> None:
        if self.n < 1 or self.won < 0 or self.lost < 0 or self.won + self.lost > self.n:
            raise ValueError(f"no paired outcomes: n = {self.n}, won = {self.won}, lost = {self.lost}")

    @property
    def difference(self) -> float:
        return (self.won - self.lost) / self.n

    @property
    def mirrored(self) -> Pairs:
        return Pairs(self.n, won=self.lost, lost=self.won)


def pairs(student: Sequence[bool], reference: Sequence[bool]) -> Pairs:
    """Count the discordant cases. Raises: ValueError: no case, or the lengths differ."""
    if len(student) != len(reference):
        raise ValueError(f"{len(student)} outcomes of the student but {len(reference)} of the reference")
    return Pairs(
        n=len(student),
        won=sum(s and not r for s, r in zip(student, reference, strict=True)),
        lost=sum(r and not s for s, r in zip(student, reference, strict=True)),
    )


def tango_score(observed: Pairs, difference: float) -> float:
    """Score statistic for H0: accuracy(student) - accuracy(reference) = `difference`; standard normal under H0.

    Unlike Wald's it has a variance even when no case is discordant. `difference` in (-1, 1).
    Source: Tango 1998, Statistics in Medicine 17, 891-908, eq. 4-6.
    """
    n, won, lost = observed.n, observed.won, observed.lost  # plain floats: bisection calls this often
    a = 2.0 * n
    b = -(won + lost) + (2.0 * n - won + lost) * difference
    c = -lost * difference * (1.0 - difference)
    lost_share = (math.sqrt(max(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = n * (2.0 * lost_share + difference * (1.0 - difference))
    distance = won - lost - n * difference
    if abs(distance) < 1e-12:
        return 0.0
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def difference_interval(observed: Pairs, confidence: float = 0.95) -> Interval:
    """Score interval of the paired difference: all differences that Tango's score does not reject, by bisection."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    estimate = observed.difference
    low = _bisect(lambda d: tango_score(observed, d) - z, -1.0 + 1e-9, estimate) if estimate > -1 else -1.0
    high = _bisect(lambda d: tango_score(observed, d) + z, estimate, 1.0 - 1e-9) if estimate < 1 else 1.0
    return Interval(estimate, low, high)


def _bisect(falling: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def wilson_interval(right: int, n: int, confidence: float = 0.95) -> Interval:
    """Interval of a single share. Raises: ValueError: no case."""
    share = proportion(right, n, confidence)
    return Interval(share.value, share.low, share.high)


def paired_bootstrap(
    student: ArrayLike, reference: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile interval of mean(student - reference), whole cases resampled, [n] and [n].

    Outcomes with few distinct differences (right or wrong) are resampled as counts, which is the same and fast.
    Source: Efron & Tibshirani 1993, ch. 13.
    """
    difference = np.asarray(student, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    if difference.ndim != 1 or difference.size == 0:
        raise ValueError("the two systems need one value a case, and at least one case")
    generator = np.random.default_rng(seed)
    n = difference.size
    values, counts = np.unique(difference, return_counts=True)
    if values.size <= 16:
        means = generator.multinomial(n, counts / n, size=resamples) @ values / n
    else:
        chunk = max(1, 4_000_000 // n)
        means = np.concatenate(
            [
                difference[generator.integers(0, n, size=(min(chunk, resamples - start), n))].mean(axis=1)
                for start in range(0, resamples, chunk)
            ]
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(difference.mean()), float(low), float(high))


@dataclass(frozen=True)
class Bin:
    """Cases whose confidence fell between `low` and `high`."""

    low: float
    high: float
    n: int
    mean_confidence: float
    accuracy: float


def reliability_bins(confidences: ArrayLike, right: ArrayLike, *, bins: int = 10) -> list[Bin]:
    """Bins of equal width over [0, 1], empty ones left out."""
    stated = np.clip(np.asarray(confidences, dtype=np.float64), 0.0, 1.0)
    outcome = np.asarray(right, dtype=np.float64)
    index = np.minimum((stated * bins).astype(int), bins - 1)
    return [
        Bin(
            low=i / bins,
            high=(i + 1) / bins,
            n=int(members.sum()),
            mean_confidence=float(stated[members].mean()),
            accuracy=float(outcome[members].mean()),
        )
        for i in range(bins)
        if (members := index == i).any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Mean gap between stated and observed share, weighted by cases. Source: Guo et al. 2017, eq. 3."""
    total = sum(each.n for each in bins)
    if total == 0:
        raise ValueError("no case")
    return sum(each.n * abs(each.mean_confidence - each.accuracy) for each in bins) / total


def auroc(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """P(a positive case scores higher than a negative one), ties count half; None when one class is missing."""
    values = np.asarray(scores, dtype=np.float64)
    labels = np.asarray(positive, dtype=bool)
    positives = int(labels.sum())
    negatives = labels.size - positives
    if positives == 0 or negatives == 0:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))
