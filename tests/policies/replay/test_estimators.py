"""Estimates against a known truth, over many simulated logs: unbiased, better with a model, honest intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from policies.replay.estimators import Arm, Estimator, doubt_of, estimate, scores, total, weighed
from policies.replay.models import cross_fitted, folds_of, standardised

Floats = NDArray[np.float64]
ROWS, DRAWS = 600, 120
TRUTH_ROWS = 1_000_000
Sampling = Callable[[np.random.Generator, Floats], tuple[Floats, Floats]]
"""Propensities of the student's and the teacher's outcome being observed, and whether they were, [n, 2]."""


def contexts(rng: np.random.Generator, size: int) -> tuple[Floats, Floats, Floats]:
    """A feature in [0, 1], and graded outcomes of the student and of the teacher that depend on it."""
    x = rng.random(size)
    student = np.clip(0.2 + 0.75 * x**2 + rng.normal(0, 0.12, size), 0, 1)
    teacher = np.clip(0.8 + 0.15 * np.sin(5 * x) + rng.normal(0, 0.08, size), 0, 1)
    return x, student, teacher


def chosen(x: Floats) -> Floats:
    """The policy to be estimated: the student answers from here on."""
    return (x > 0.35).astype(np.float64)


@cache
def truth() -> float:
    x, student, teacher = contexts(np.random.default_rng(1), TRUTH_ROWS)
    kept = chosen(x)
    return float((kept * student + (1 - kept) * teacher).mean())


def by_shadows(rng: np.random.Generator, x: Floats) -> tuple[Floats, Floats]:
    """Both answers of a sample are graded; hard requests are drawn more often."""
    p = np.where(x < 0.5, 0.4, 0.1)
    drawn = (rng.random(len(x)) < p).astype(np.float64)
    return np.stack([p, p], axis=1), np.stack([drawn, drawn], axis=1)


def by_exploration(rng: np.random.Generator, x: Floats) -> tuple[Floats, Floats]:
    """The route is drawn, and what was delivered is graded. The logging policy prefers the student for other requests
    than the policy that is estimated."""
    p = np.where(x > 0.6, 0.8, 0.2)
    to_student = rng.random(len(x)) < p
    return np.stack([p, 1 - p], axis=1), np.stack([to_student, ~to_student], axis=1).astype(np.float64)


def no_weights(sampling: Sampling) -> Sampling:
    """A wrong estimator: as if everything had been observed equally likely."""

    def sampled(rng: np.random.Generator, x: Floats) -> tuple[Floats, Floats]:
        p, observed = sampling(rng, x)
        return np.full_like(p, observed.mean()), observed

    return sampled


def estimates(
    sampling: Sampling, estimator: Estimator, *, draws: int = DRAWS, model: str = "fitted"
) -> NDArray[np.float64]:
    """[draws, 3]: value, low and high of the policy's value."""
    found = []
    for seed in range(draws):
        rng = np.random.default_rng(seed + 1000)
        x, *outcomes = contexts(rng, ROWS)
        propensity, observed = sampling(rng, x)
        kept, strata = chosen(x), np.zeros(ROWS, np.int64)
        folds = folds_of(np.arange(ROWS) * 7919 + seed)
        parts = []
        for arm, coefficient in enumerate((kept, 1 - kept)):
            weight = observed[:, arm] / propensity[:, arm]
            y = np.where(weight > 0, outcomes[arm], 0.0)
            design = standardised([x, (x - 0.5) ** 2])
            predicted = np.full(ROWS, 0.5)
            if model == "wrong":
                predicted = 0.9 - 0.8 * x
            elif estimator == "dr":
                predicted = cross_fitted(design, y, weight, folds, bounded=True)
            ready = weighed(Arm(y, weight, predicted), strata, 1, estimator)
            parts.append(scores(ready, coefficient, strata, 1))
        value = estimate(total(*parts), n=int(observed.any(axis=1).sum()))
        found.append((value.value, value.low, value.high))
    return np.array(found)


def bias_in_errors(found: Floats) -> float:
    """How many standard errors of the simulation lie between the mean of the estimates and the truth."""
    return float(abs(found[:, 0].mean() - truth()) / (found[:, 0].std() / math.sqrt(len(found))))


def coverage(found: Floats) -> float:
    return float(((found[:, 1] <= truth()) & (truth() <= found[:, 2])).mean())


@cache
def cached(sampling: Sampling, estimator: Estimator) -> NDArray[np.float64]:
    return estimates(sampling, estimator)


@pytest.mark.parametrize("estimator", ["ips", "snips", "dr"])
@pytest.mark.parametrize("sampling", [by_shadows, by_exploration])
def test_estimator_is_unbiased_when_propensities_are_right(sampling: Sampling, estimator: Estimator) -> None:
    assert bias_in_errors(cached(sampling, estimator)) < 3.5


@pytest.mark.parametrize("estimator", ["ips", "snips", "dr"])
@pytest.mark.parametrize("sampling", [by_shadows, by_exploration])
def test_interval_covers_the_truth_as_often_as_it_says(sampling: Sampling, estimator: Estimator) -> None:
    assert 0.89 <= coverage(cached(sampling, estimator)) < 1.0  # 0.95 less 3 errors of the simulation


@pytest.mark.parametrize("sampling", [by_shadows, by_exploration])
def test_doubly_robust_estimate_varies_less_when_the_model_is_useful(sampling: Sampling) -> None:
    deviations = {name: cached(sampling, name)[:, 0].std() for name in ("ips", "snips", "dr")}
    assert deviations["dr"] < 0.9 * deviations["snips"]
    assert deviations["dr"] < 0.6 * deviations["ips"]


@pytest.mark.parametrize("sampling", [by_shadows, by_exploration])
def test_doubly_robust_estimate_is_unbiased_when_the_model_is_wrong(sampling: Sampling) -> None:
    found = estimates(sampling, "dr", model="wrong", draws=250)
    assert bias_in_errors(found) < 3.5
    assert 0.91 <= coverage(found) < 1.0


def test_doubly_robust_estimate_loses_most_of_the_bias_of_wrong_propensities_when_the_model_is_good() -> None:
    wrong = no_weights(by_shadows)
    bias = {name: abs(estimates(wrong, name, draws=100)[:, 0].mean() - truth()) for name in ("snips", "dr")}
    assert bias["dr"] < 0.35 * bias["snips"]


@pytest.mark.parametrize("sampling", [by_shadows, by_exploration])
def test_the_tests_above_fail_when_the_propensities_are_ignored(sampling: Sampling) -> None:
    found = estimates(no_weights(sampling), "snips", draws=100)
    assert bias_in_errors(found) > 10
    assert coverage(found) < 0.8


def test_estimate_is_the_plain_mean_when_everything_was_observed() -> None:
    y, strata = np.array([0.0, 1.0, 1.0, 0.5]), np.zeros(4, np.int64)
    for name in ("ips", "snips", "dr"):
        ready = weighed(Arm(y, np.ones(4), np.full(4, 0.3)), strata, 1, name)
        assert estimate(scores(ready, np.ones(4), strata, 1), n=4).value == pytest.approx(0.625)


def test_interval_keeps_a_width_when_few_labels_agree() -> None:
    y, strata = np.ones(50), np.zeros(50, np.int64)
    arm = Arm(y, np.ones(50), y)
    ready, doubt = weighed(arm, strata, 1, "dr"), doubt_of(arm, "score", np.ones(50), strata, 1)
    found = estimate(scores(ready, np.ones(50), strata, 1), n=50, doubt=doubt)
    assert 0.02 < found.value - found.low < 0.12
    assert found.high == found.value == 1.0
