"""A line through samples, and how sure its slope is."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

import msgspec

Z_95 = 1.96
MIN_SAMPLES = 5
MAX_CORRELATION = 0.95


class Trend(msgspec.Struct, frozen=True):
    """Slope per unit of time, with its 95 % confidence interval."""

    slope: float
    low: float
    high: float


def trend_of(times: Sequence[float], values: Sequence[float], *, beside: Sequence[float] | None = None) -> Trend:
    """Least squares. Neighbouring samples of memory are alike, so that they count for less than they are.

    The variance is inflated by (1 + r) / (1 - r), r = the residuals' correlation with their predecessors.

    Args:
        beside: what else moves the values, such as the load; the slope is that at a constant `beside`.
    Raises:
        ValueError: too few samples.
    """
    if beside is not None:
        # Frisch and Waugh: what is left of both without the third gives the slope of the regression on two.
        times, values = _without(beside, times), _without(beside, values)
    count = len(values)
    if count < MIN_SAMPLES:
        raise ValueError(f"{count} samples are too few for a trend: let it run for longer")
    slope, intercept = statistics.linear_regression(times, values)
    residuals = [value - (intercept + slope * at) for at, value in zip(times, values, strict=True)]
    squares = sum(residual**2 for residual in residuals)
    mean = statistics.fmean(times)
    spread = sum((at - mean) ** 2 for at in times)
    following = sum(a * b for a, b in itertools.pairwise(residuals))
    correlation = min(max(following / squares, 0.0), MAX_CORRELATION) if squares else 0.0
    inflation = (1 + correlation) / (1 - correlation)
    error = math.sqrt(squares / (count - 2) / spread * inflation)
    return Trend(slope, slope - Z_95 * error, slope + Z_95 * error)


def _without(cause: Sequence[float], values: Sequence[float]) -> list[float]:
    """The residuals of the values on their cause, around their mean."""
    if len(set(cause)) < 2:
        return list(values)
    slope, _ = statistics.linear_regression(cause, values)
    mean = statistics.fmean(cause)
    return [value - slope * (at - mean) for at, value in zip(cause, values, strict=True)]
