"""What may the rest of a day bring when none was seen before? Supposed days, weighed by what has come so far.

Most traffic rises and falls once a day, some twice. How much, and at which hour (UTC), nobody knows on the first day: a
night looks like all that is to come. So many days are supposed at once, a flat one and some with one or two peaks at
every hour, and each is weighed by how well it explains what has come. At first that says little, and the supposed days
differ most: a low hour has more to follow than a high one has not, so more is expected than what comes now. Later few
of them are left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from operator import mul
from typing import NamedTuple

HOURS = 24
FLAT_WEIGHT, ONE_PEAK_WEIGHT, TWO_PEAKS_WEIGHT = 0.25, 0.4, 0.35
"""How likely a day is to be flat, to have one peak, or two, before anything has come."""
ONE_PEAK_SWINGS = (0.5, 0.9)
"""Of a wave of a day, by the mean: from peak to trough 3:1 and 19:1."""
TWO_PEAKS_SWINGS = (0.3, 0.6)
"""Of a wave of a day, and of one of half a day on top of it."""
HOUR_EVIDENCE = 4.0
"""An hour says as much as so many requests that come by lot: hours of real days differ from any curve by a half."""


class Supposed(NamedTuple):
    """A day that is possible."""

    weight: float
    """How likely it is before anything has come."""
    hours: tuple[float, ...]
    """[24] volume by the hour of the day (UTC), with a mean of 1."""
    logs: tuple[float, ...]


def expected_day(volumes: Sequence[float], seen: Sequence[float], *, cautious: bool) -> list[float] | None:
    """The mean of the supposed days, as high as they must be to have brought what has come.

    Args:
        volumes: [24] what has come, by the hour of the day (UTC).
        seen: [24] which part of each hour was watched.
        cautious: each is made as high by itself, so that days of which little should have come yet count for more; else
            all of them together. That is for a budget with something to spare.
    Returns:
        [24] volume by hour; None: nothing has come.
    """
    total, watched = sum(volumes), sum(seen)
    if total <= 0.0 or watched <= 0.0:
        return None
    shares = [volume / total for volume in volumes]  # of any size: what has come may be next to nothing
    scores, wholes = [], []
    for weight, hours, logs in supposed():
        whole = sum(map(mul, hours, seen))
        fit = sum(map(mul, shares, logs)) - math.log(whole)
        scores.append(math.log(weight) + HOUR_EVIDENCE * watched * fit)
        wholes.append(whole)
    best = max(scores)
    weights = [math.exp(score - best) for score in scores]
    if cautious:
        weights = [weight / whole for weight, whole in zip(weights, wholes, strict=True)]
    scale = total / sum(map(mul, weights, wholes))
    return [scale * sum(map(mul, weights, hour)) for hour in _by_hour()]


@cache
def _by_hour() -> tuple[tuple[float, ...], ...]:
    """[24, 145] volumes of the supposed days."""
    return tuple(zip(*(day.hours for day in supposed()), strict=True))


@cache
def supposed() -> tuple[Supposed, ...]:
    """All of them, 145."""
    days = [_day(FLAT_WEIGHT, 0, 0.0, 0, 0.0)]
    for swing in ONE_PEAK_SWINGS:
        weight = ONE_PEAK_WEIGHT / len(ONE_PEAK_SWINGS) / HOURS
        days += [_day(weight, peak, swing, 0, 0.0) for peak in range(HOURS)]
    swing, half_swing = TWO_PEAKS_SWINGS
    peaks = [(peak, half_peak) for peak in range(0, HOURS, 3) for half_peak in range(HOURS // 2)]
    weight = TWO_PEAKS_WEIGHT / len(peaks)
    days += [_day(weight, peak, swing, half_peak, half_swing) for peak, half_peak in peaks]
    return tuple(days)


def _day(weight: float, peak: int, swing: float, half_peak: int, half_swing: float) -> Supposed:
    turn = 2.0 * math.pi / HOURS
    hours = tuple(
        1.0
        + swing * math.cos(turn * (hour + 0.5 - peak))
        + half_swing * math.cos(2.0 * turn * (hour + 0.5 - half_peak))
        for hour in range(HOURS)
    )
    return Supposed(weight, hours, tuple(math.log(each) for each in hours))
