"""The statistics of the gate, in numpy: paired binary outcomes, Holm, bootstrap, calibration, sample size.

Student and teacher answer the same cases, so everything that compares them is paired. With `lost` = cases that only
the reference got right and `won` = cases that only the student got right, the difference is (won - lost) / n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

EXACT_UP_TO = 150
"""Cases up to which p-values are exact (maximised over the nuisance parameter); beyond, the score is close enough."""
NUISANCE_GRID = 120
MAX_LABELS = 10_000_000
"""More missing labels than this are reported as None: no evaluation set will settle it."""
DECIDING_POWER = 0.8


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


def _scores(n: int, won: NDArray[np.int64], lost: NDArray[np.int64], difference: float) -> Floats:
    """`tango_score` of many tables at once."""
    a = 2.0 * n
    b = -(won + lost) + (2.0 * n - won + lost) * difference
    c = -lost * difference * (1.0 - difference)
    lost_share = (np.sqrt(np.maximum(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = n * (2.0 * lost_share + difference * (1.0 - difference))
    distance = won - lost - n * difference
    with np.errstate(divide="ignore", invalid="ignore"):
        score = distance / np.sqrt(np.maximum(variance, 0.0))
    return np.where(np.abs(distance) < 1e-12, 0.0, score)


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


def non_inferiority_p(observed: Pairs, margin: float) -> float:
    """One-sided p-value of H0: the student is worse than the reference by `margin` or more.

    Small = shown to be better than that. Up to EXACT_UP_TO cases it is exact: the probability under H0 of a score at
    least as large, maximised over the share of discordant cases, so that the level holds for every n.
    With a margin of 0 it asks for superiority. Raises: ValueError: margin outside [0, 1).
    """
    if not 0 <= margin < 1:
        raise ValueError(f"margin must be at least 0 and below 1, not {margin}")
    score = tango_score(observed, -margin)
    if observed.n > EXACT_UP_TO:
        return NormalDist().cdf(-score)
    return _exact_p(observed.n, score, margin)


def inferiority_p(observed: Pairs, margin: float) -> float:
    """One-sided p-value of H0: the student loses no more than `margin`; small = shown to be worse.

    `margin` in [0, 1); the same test with the roles swapped.
    """
    if not 0 <= margin < 1:
        raise ValueError(f"margin must be at least 0 and below 1, not {margin}")
    mirrored = observed.mirrored
    score = tango_score(mirrored, margin)
    if observed.n > EXACT_UP_TO:
        return NormalDist().cdf(-score)
    return _exact_p(observed.n, score, -margin)


def _exact_p(n: int, score: float, margin: float) -> float:
    """Largest probability, over the nuisance parameter, of a score >= `score` when the difference is `-margin`.

    Source: the unconditional test of Sidik 2003, Statistics in Medicine 22, 265-278, with Tango's score as order.
    """
    if score == -math.inf or math.isnan(score):
        return 1.0
    won, lost = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    inside = won + lost <= n
    won, lost = won[inside], lost[inside]
    extreme = _scores(n, won, lost, -margin) >= score - 1e-9
    won, lost = won[extreme], lost[extreme]
    if won.size == 0:
        return 0.0
    log_ways = _log_multinomial(n, won, lost)
    highest = (1.0 - abs(margin)) / 2.0
    # Denser near 0: with few discordant cases the probability peaks there.
    won_shares = highest * np.linspace(0.0, 1.0, NUISANCE_GRID) ** 2 + max(0.0, -margin)
    totals = [
        float(np.exp(log_ways + _log_probability(n, won, lost, share, share + margin)).sum()) for share in won_shares
    ]
    return min(1.0, max(totals))


def _log_multinomial(n: int, won: NDArray[np.int64], lost: NDArray[np.int64]) -> Floats:
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    return np.asarray(log_factorial[n] - log_factorial[won] - log_factorial[lost] - log_factorial[n - won - lost])


def _log_probability(
    n: int, won: NDArray[np.int64], lost: NDArray[np.int64], won_share: float, lost_share: float
) -> Floats:
    same_share = max(1.0 - won_share - lost_share, 1e-300)
    return np.asarray(
        won * math.log(max(won_share, 1e-300))
        + lost * math.log(max(lost_share, 1e-300))
        + (n - won - lost) * math.log(same_share)
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values that control the family-wise error. Source: Holm 1979."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    for rank, (name, p_value) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_value))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def missing_labels(observed: Pairs, margin: float, confidence: float, *, comparisons: int = 1) -> int | None:
    """How many more labelled cases would decide the test, if the observed shares are the true ones.

    The score grows with the square root of the cases, so the count follows from it; with power DECIDING_POWER, in
    whichever direction the observation points. `comparisons` tightens the level as Holm's first step does.
    Returns None where no feasible number would: the observed difference is at the margin.
    """
    score = abs(tango_score(observed, -margin))
    needed = NormalDist().inv_cdf(1 - (1 - confidence) / comparisons) + NormalDist().inv_cdf(DECIDING_POWER)
    if score <= 0 or not math.isfinite(score):
        return None if score <= 0 else 1
    total = math.ceil(observed.n * (needed / score) ** 2)
    return None if total > MAX_LABELS else max(1, total - observed.n)


def wilson_interval(right: int, n: int, confidence: float = 0.95) -> Interval:
    """Interval of a single share. Source: Wilson 1927."""
    if n < 1:
        raise ValueError("no case")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if right == 0 else max(0.0, centre - half)
    return Interval(share, low, 1.0 if right == n else min(1.0, centre + half))


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
