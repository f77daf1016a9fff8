"""Estimates with confidence intervals, from sums that add up over windows, workers and replicas.

Plain Python, since the gateway computes them too: its core install has no numpy. Whoever has columns of numbers fills
`Moments` with the sums of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import msgspec
from msgspec.structs import astuple

Kind = Literal["any", "score", "difference"]
"""What is averaged: anything (money, seconds), a score in [0, 1], or a difference of two scores in [-1, 1]."""
CONFIDENCE = 0.95
MIN_OBSERVATIONS = 3
"""Of equal weight: below, the spread of unbounded values is anybody's guess."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that was estimated from `n` observations, with its confidence limits."""

    value: float
    low: float
    high: float
    n: int
    effective_n: float
    """As many observations of equal weight say as much (Kish 1965): n when all weights are equal, less otherwise."""

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def as_json(self) -> dict[str, float | int]:
        """The form in which every report and endpoint gives an estimate."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


class Moments(msgspec.Struct):
    """Sums over weighted observations (w, s). Those of two parts, added, are those of the whole."""

    n: int = 0
    w: float = 0.0
    w2: float = 0.0
    ws: float = 0.0
    w2s: float = 0.0
    w2s2: float = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """One more observation; `weight` is 1 / the probability with which it was taken into the sample."""
        squared = weight * weight
        self.n += 1
        self.w += weight
        self.w2 += squared
        self.ws += weight * value
        self.w2s += squared * value
        self.w2s2 += squared * value * value

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Moments) -> Moments:
        """What came after `other` was taken down."""
        return Moments(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def effective_n(self) -> float:
        return self.w * self.w / self.w2 if self.w2 > 0 else 0.0

    def estimate(self, kind: Kind = "any", confidence: float = CONFIDENCE) -> Estimate | None:
        """The weighted mean (Hajek's) with an interval from its linearised variance; None without observations.

        A variance that is estimated from few observations is too small, and 0 when all of them agree. For bounded
        values pseudo-observations make up for that: of equal weights and scores of 0 and 1 the interval is Agresti &
        Coull's (1998), of differences of such scores Agresti & Min's (2005). For anything else it is Student's t, and
        below MIN_OBSERVATIONS effective ones None.
        """
        if self.n < 1 or self.w <= 0 or self.w2 <= 0:
            return None
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        value, n = self.ws / self.w, self.effective_n
        if kind == "any":
            if n < MIN_OBSERVATIONS:
                return None
            half = _student_t(z, n - 1) * math.sqrt(n / (n - 1)) * self.deviation(value)
            return Estimate(value, value - half, value + half, self.n, n)
        mass = z * z / 2
        padded = self._padded(((0.0, mass), (1.0, mass)) if kind == "score" else ((-1.0, 0.5), (0.0, 1.0), (1.0, 0.5)))
        centre = padded.ws / padded.w
        half = z * padded.deviation(centre)
        low, high = min(value, centre - half), max(value, centre + half)
        return Estimate(value, max(0.0 if kind == "score" else -1.0, low), min(1.0, high), self.n, n)

    def deviation(self, mean: float) -> float:
        """Standard deviation of the weighted mean."""
        return math.sqrt(max(0.0, self.w2s2 - 2 * mean * self.w2s + mean * mean * self.w2)) / self.w

    def _padded(self, pseudo: tuple[tuple[float, float], ...]) -> Moments:
        """With further observations (value, how many), each of the weight of a typical one."""
        weight, sums = self.w2 / self.w, self + Moments()
        for value, count in pseudo:
            sums.w += count * weight
            sums.w2 += count * weight * weight
            sums.ws += count * weight * value
            sums.w2s += count * weight * weight * value
            sums.w2s2 += count * weight * weight * value * value
        return sums


def weighted_mean(
    values: Iterable[float],
    weights: Iterable[float] | None = None,
    confidence: float = CONFIDENCE,
    *,
    kind: Kind = "any",
) -> Estimate | None:
    """Hajek's estimate of the mean over all from a sample.

    Args:
        values: one number an observation.
        weights: 1 / propensity of each; None: all equal.
        kind: what the values are; tell it where they are bounded, see `Moments.estimate`.
    Returns:
        None when there are too few to say anything.
    Raises:
        ValueError: the lengths differ.
    Source: Sarndal, Swensson & Wretman 1992, sec. 5.7 and 5.5 (variance by linearisation).
    """
    moments = Moments()
    for value, weight in zip(values, weights, strict=True) if weights is not None else ((v, 1.0) for v in values):
        moments.add(value, weight)
    return moments.estimate(kind, confidence)


def proportion(successes: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Interval of a share. Raises: ValueError: no observation. Source: Wilson 1927."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"no share: {successes} of {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return Estimate(share, low, 1.0 if successes == n else min(1.0, centre + half), n, float(n))


def missing(estimate: Estimate, half_width: float) -> int:
    """About how many more observations would narrow the interval to +- `half_width`; 0 when it is as narrow already."""
    if estimate.half_width <= half_width:
        return 0
    return math.ceil(estimate.n * ((estimate.half_width / half_width) ** 2 - 1))


def _student_t(z: float, freedom: float) -> float:
    """Quantile of Student's t from the normal one, to 2 % from 2 degrees of freedom on. Source: Peiser 1943."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def combined(parts: Sequence[tuple[float, Estimate]]) -> Estimate:
    """The sum of independent estimates, each times a known factor: a mean over strata, say.

    Source: Zou & Donner 2008, Statistics in Medicine 27, 1693-1702 (MOVER): the limits are recovered from those of the
    parts, so that they stay lopsided where those are.
    """
    value = sum(factor * part.value for factor, part in parts)
    below = above = 0.0
    for factor, part in parts:
        ends = (factor * (part.value - part.low), factor * (part.high - part.value))
        down, up = ends if factor >= 0 else (-ends[1], -ends[0])
        below, above = below + down * down, above + up * up
    return Estimate(
        value,
        value - math.sqrt(below),
        value + math.sqrt(above),
        sum(part.n for _, part in parts),
        sum(part.effective_n for _, part in parts),
    )
