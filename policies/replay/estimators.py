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
stratum off (linearisation). Few labels show too little of it, and none when they agree: `doubt_of` adds what limits by
pseudo-observations would allow for (Agresti & Coull 1998, Agresti & Min 2005), for each stratum by the labels of the
rows that count there; distances to the limits add up as variances do (Zou & Donner 2008). Labels of other strata, or of
answers that the policy would not deliver, make nothing surer.
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

from policies.intervals import CONFIDENCE, Estimate, Moments
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
class Doubt:
    """What the labels behind an estimate of bounded outcomes do not show, because they are few."""

    below: float
    """Variance that the lower limit has to allow for beside that of the estimate."""
    above: float
    """... and the upper limit."""
    n: int
    """Labels that the estimate rests on."""
    effective_n: float

    def __add__(self, other: Doubt) -> Doubt:
        """Of a sum of two estimates."""
        return Doubt(
            self.below + other.below,
            self.above + other.above,
            self.n + other.n,
            self.effective_n + other.effective_n,
        )

    def __neg__(self) -> Doubt:
        return Doubt(self.above, self.below, self.n, self.effective_n)


Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
NO_DOUBT = Doubt(0.0, 0.0, 0, 0.0)


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
    found: Scores, *, n: int, doubt: Doubt = NO_DOUBT, confidence: float = CONFIDENCE, scale: float = 1.0
) -> Estimate:
    """The mean with its interval.

    Args:
        n: observations that it rests on.
        scale: multiplies value and limits.
    """
    size = len(found.value)
    value = float(found.value.mean())
    variance = float(found.influence.var(ddof=1)) / size if size > 1 else math.inf
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    low, high = value - z * math.sqrt(variance + doubt.below), value + z * math.sqrt(variance + doubt.above)
    return Estimate(value * scale, low * scale, high * scale, n, doubt.effective_n or float(n))


def doubt_of(arm: Arm, kind: Literal["score", "difference"], coefficient: Floats, strata: Strata, count: int) -> Doubt:
    """What the labels of an arm leave open under a policy: stratum by stratum, how much further the limits of a mean of
    so few labels lie from it than their variance says.

    Args:
        kind: of the labels.
        coefficient: [n], in [0, 1]: how much of the arm the policy gets.
    """
    shares = np.bincount(strata, coefficient, minlength=count) / len(strata)
    rows = np.flatnonzero((arm.weight > 0) & (coefficient > 0))
    cells, y, weight = strata[rows], arm.y[rows], arm.weight[rows] * coefficient[rows]
    sums = [
        np.bincount(cells, each, minlength=count)
        for each in (weight, weight**2, weight * y, weight**2 * y, weight**2 * y**2)
    ]
    seen = np.bincount(cells, minlength=count)
    found = NO_DOUBT
    for cell in np.flatnonzero(shares > 0).tolist():
        labels = Moments(int(seen[cell]), *(float(each[cell]) for each in sums))
        told, shown = labels.estimate(kind), 0.0
        if told is None:  # what stands in the estimate is the model's mean
            within = (strata == cell) & (coefficient > 0)
            mean = float(np.average(arm.model[within], weights=coefficient[within]))
            told = Estimate(mean, 0.0 if kind == "score" else -1.0, 1.0, 0, 0.0)
        else:
            shown = labels.deviation(told.value) ** 2
        below, above = ((end / Z) ** 2 - shown for end in (told.value - told.low, told.high - told.value))
        share = float(shares[cell]) ** 2
        found += Doubt(share * max(0.0, below), share * max(0.0, above), told.n, told.effective_n)
    return found
