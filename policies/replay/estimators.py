"""Inverse propensity, self-normalised and doubly robust estimates of what a policy would have got.

A policy is a pair of coefficients a row: how much of the student's outcome and how much of the teacher's it gets. For
quality they are (1, 0) or (0, 1); for cost a cascade that escalates gets both. The outcome of an arm is observed for
some rows, each with a known weight 1/P(observed); `Arm` is that, with a model's prediction for every row.

For one arm with outcome y, weight w (0 = not observed), model m and coefficient k, over n rows:

    ips    1/n sum k w y                  unbiased; noisy
    snips  the same with w scaled to sum to the rows of the stratum that they stand for (Hajek)
    dr     1/n sum k (m + w (y - m))      w as in snips; right when the weights are, whatever m is, and closer the
                                          better m is; with w = 1 everywhere it is the plain mean of y

Intervals come from the variance of the influence function. That of Hajek's weights takes the mean residual of the
stratum off (linearisation).
Sources: Horvitz & Thompson 1952; Swaminathan & Joachims 2015 (snips); Robins, Rotnitzky & Zhao 1994, Dudik, Langford &
Li 2011 (dr); Chernozhukov et al. 2018 (cross-fitting).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from policies.intervals import CONFIDENCE, Estimate
from policies.replay.columns import Floats

Estimator = Literal["dr", "snips", "ips"]
Strata = NDArray[np.int64]


@dataclass(frozen=True)
class Arm:
    """The outcome of one model's answer, [n] each."""

    y: Floats
    """0 where it was not observed."""
    weight: Floats
    """1/P(observed); 0 = not observed."""
    model: Floats
    """Prediction for every row."""


@dataclass(frozen=True)
class Weighed:
    """An arm with its weights worked in: all of an estimate that does not depend on the policy, [n] each."""

    value: Floats
    """What a policy gets that gets all of this arm, so that its mean is the estimate."""
    correction: Floats
    """The part of `value` that comes from observations."""
    excess: Floats
    """Weight - 1, for the variance; 0 in strata without observations, and for `ips`."""
    outcome: Floats
    """As observed, else as predicted."""


@dataclass(frozen=True)
class Scores:
    """Per row of the log: its contribution to the estimate, and its influence on it."""

    value: Floats
    influence: Floats


def hajek(weight: Floats, strata: Strata, count: int) -> Floats:
    """Weights scaled so that in every stratum they sum to its rows; strata without any stay 0."""
    rows = np.bincount(strata, minlength=count)
    sums = np.bincount(strata, weight, minlength=count)
    factor = np.divide(rows, sums, out=np.zeros(count), where=sums > 0)
    scaled: Floats = weight * factor[strata]
    return scaled


def weighed(arm: Arm, strata: Strata, count: int, estimator: Estimator) -> Weighed:
    """
    Args:
        strata: [n], of the rows that a weight stands for.
        count: number of strata.
    """
    observed = arm.weight > 0
    outcome = np.where(observed, arm.y, arm.model)
    if estimator == "ips":
        value = np.where(observed, arm.weight * arm.y, 0.0)
        return Weighed(value, value, np.zeros(len(value)), outcome)
    weight = hajek(arm.weight, strata, count)
    model = arm.model if estimator == "dr" else np.where(np.isnan(arm.model), np.nan, 0.0)
    correction = np.where(observed, weight * (arm.y - np.where(observed, model, 0.0)), 0.0)
    seen = np.bincount(strata, arm.weight, minlength=count)[strata] > 0
    return Weighed(model + correction, correction, np.where(seen, weight - 1.0, 0.0), outcome)


def scores(arm: Weighed, coefficient: Floats, strata: Strata, count: int) -> Scores:
    """Contributions of one arm under a policy.

    Args:
        coefficient: [n], how much of this arm the policy gets.
    """
    value = np.where(coefficient != 0.0, coefficient * arm.value, 0.0)
    rows = np.maximum(np.bincount(strata, minlength=count), 1)
    mean_correction = np.bincount(strata, coefficient * arm.correction, minlength=count) / rows
    return Scores(value, value - arm.excess * mean_correction[strata])


def total(*parts: Scores) -> Scores:
    """Contributions of several arms to one outcome."""
    value, influence = parts[0].value, parts[0].influence
    for part in parts[1:]:
        value, influence = value + part.value, influence + part.influence
    return Scores(value, influence)


def estimate(
    found: Scores, *, n: int, floor: float = 0.0, confidence: float = CONFIDENCE, scale: float = 1.0
) -> Estimate:
    """The mean with its interval.

    Args:
        n: observations that it rests on.
        floor: least standard error, where few observations that agree would claim to know.
        scale: multiplies value and limits.
    """
    size = len(found.value)
    value = float(found.value.mean())
    deviation = float(found.influence.std(ddof=1)) / math.sqrt(size) if size > 1 else math.inf
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * max(deviation, floor)
    return Estimate(value * scale, (value - half) * scale, (value + half) * scale, n, float(n))


def agreement_floor(weights: Floats) -> float:
    """Standard error of a share that n observations agree on, as Agresti & Coull (1998) have it; n by Kish (1965)."""
    squares = float((weights * weights).sum())
    n = float(weights.sum()) ** 2 / squares if squares > 0 else 0.0
    return math.sqrt(2.0 * (n + 2.0)) / (n + 4.0) ** 1.5 if n > 0 else 1.0
