"""Intervals against published values and simulations with known truth."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.intervals import Moments, combined, missing, proportion, weighted_mean

SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(1, 50)), min_size=1, max_size=40)


@pytest.mark.parametrize(("share", "n"), [(0.5, 30), (0.9, 60), (0.97, 400)])
def test_proportion_covers_the_truth_about_as_often_as_it_says(share: float, n: int) -> None:
    chance, covered = random.Random(1), 0
    for _ in range(2000):
        interval = proportion(sum(chance.random() < share for _ in range(n)), n)
        covered += interval.low <= share <= interval.high
    assert 0.925 < covered / 2000 < 0.98


def sampled(chance: random.Random, n: int, wrong_share: float) -> tuple[list[float], list[float], float]:
    """Requests of which the uncertain ones are sampled more often: scores, 1 / propensity, and the truth of all."""
    scores, weights = [], []
    for _ in range(n):
        uncertain = chance.random() < 0.3
        propensity = 0.5 if uncertain else 0.1
        if chance.random() < propensity:
            scores.append(float(chance.random() >= (2.5 if uncertain else 0.36) * wrong_share))
            weights.append(1 / propensity)
    return scores, weights, 1 - wrong_share * (0.3 * 2.5 + 0.7 * 0.36)


@pytest.mark.parametrize(("n", "wrong_share"), [(300, 0.2), (1000, 0.1), (1000, 0.03)])
def test_weighted_mean_covers_the_truth_when_sampling_depends_on_what_is_measured(n: int, wrong_share: float) -> None:
    chance, covered, plain, trials = random.Random(2), 0, 0, 800
    for _ in range(trials):
        scores, weights, truth = sampled(chance, n, wrong_share)
        weighted, naive = weighted_mean(scores, weights, kind="score"), weighted_mean(scores, kind="score")
        assert weighted is not None
        assert naive is not None
        covered += weighted.low <= truth <= weighted.high
        plain += naive.low <= truth <= naive.high
    assert 0.925 < covered / trials < 0.99
    assert plain < covered  # without the weights it is another quantity


@pytest.mark.parametrize("n", [12, 100])
def test_weighted_mean_covers_the_truth_when_values_are_unbounded(n: int) -> None:
    chance, covered = random.Random(3), 0
    for _ in range(2000):
        interval = weighted_mean([chance.gauss(5.0, 2.0) for _ in range(n)])
        assert interval is not None
        covered += interval.low <= 5.0 <= interval.high
    assert 0.935 < covered / 2000 < 0.965


@pytest.mark.parametrize("n", [40, 300])
def test_difference_covers_the_truth_when_few_pairs_differ(n: int) -> None:
    chance, covered = random.Random(4), 0
    for _ in range(1500):
        pairs = chance.choices((-1.0, 0.0, 1.0), weights=(0.06, 0.92, 0.02), k=n)
        interval = weighted_mean(pairs, kind="difference")
        assert interval is not None
        covered += interval.low <= -0.04 <= interval.high
    assert 0.925 < covered / 1500 < 0.985


def test_score_interval_is_that_of_agresti_and_coull_when_weights_are_equal() -> None:
    # n~ = 20 + 1.96^2 = 23.84, p~ = (18 + 1.92) / 23.84 = 0.8356, 1.96 * sqrt(p~ (1 - p~) / n~) = 0.1488
    interval = weighted_mean([1.0] * 18 + [0.0] * 2, [7.0] * 20, kind="score")
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((0.8356 - 0.1488, 0.8356 + 0.1488), abs=1e-4)
    assert interval.effective_n == pytest.approx(20)


def test_interval_has_a_width_when_all_scores_agree() -> None:
    interval = weighted_mean([1.0] * 30, kind="score")
    assert interval is not None
    assert interval.value == interval.high == 1.0
    assert 0.85 < interval.low < 0.9


@given(SCORES)
def test_interval_holds_its_value_and_stays_in_bounds(rows: list[tuple[float, float]]) -> None:
    values, weights = zip(*rows, strict=True)
    interval = weighted_mean(values, weights, kind="score")
    assert interval is not None
    assert 0 <= interval.low <= interval.value + 1e-9
    assert interval.value - 1e-9 <= interval.high <= 1
    assert interval.effective_n <= interval.n + 1e-6


@given(SCORES, SCORES)
def test_moments_of_two_windows_add_up_to_those_of_both(
    one: list[tuple[float, float]], two: list[tuple[float, float]]
) -> None:
    first, second, both = Moments(), Moments(), Moments()
    for rows, part in ((one, first), (two, second)):
        for value, weight in rows:
            part.add(value, weight)
            both.add(value, weight)
    joined, whole = (first + second).estimate("score"), both.estimate("score")
    assert joined is not None
    assert whole is not None
    assert joined.as_json() == pytest.approx(whole.as_json())
    assert (both - first).n == second.n


def test_missing_observations_narrow_the_interval_as_stated() -> None:
    few = proportion(90, 100)
    total = 100 + missing(few, 0.01)
    assert proportion(round(0.9 * total), total).half_width == pytest.approx(0.01, rel=0.05)
    assert missing(proportion(9000, 10_000), 0.01) == 0


def test_nothing_is_claimed_when_there_is_too_little() -> None:
    assert weighted_mean([]) is None
    assert weighted_mean([1.0, 2.0]) is None
    assert weighted_mean([], kind="score") is None
    with pytest.raises(ValueError, match="no share"):
        proportion(0, 0)


def test_combined_estimate_of_strata_covers_the_mean_over_all() -> None:
    chance, covered = random.Random(9), 0
    truth = 0.7 * 0.95 + 0.3 * 0.8
    for _ in range(1500):
        parts = [
            (share, proportion(sum(chance.random() < p for _ in range(80)), 80))
            for share, p in ((0.7, 0.95), (0.3, 0.8))
        ]
        interval = combined(parts)
        covered += interval.low <= truth <= interval.high
    assert 0.925 < covered / 1500 < 0.985


def test_combined_difference_turns_the_limits_around() -> None:
    part = proportion(19, 20)
    negative = combined([(-1.0, part)])
    assert (negative.low, negative.high) == pytest.approx((-part.high, -part.low))
