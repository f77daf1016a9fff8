"""The p-values of drift detection hold their level, also where alarms live."""

from __future__ import annotations

import math
import random

import pytest

from policies.quality.divergence import of_histograms, of_predictions, of_rates
from tests.effort import examples


def test_fishers_exact_test_matches_the_tea_tasting() -> None:
    # Fisher 1935: 3 of 4 cups right: one-sided p = 17/70; doubled.
    assert math.exp(of_rates(3, 4, 1, 4).log_p) == pytest.approx(34 / 70)


def test_fishers_exact_test_matches_the_sum_by_hand_in_both_directions() -> None:
    up, down = of_rates(12, 40, 5, 60), of_rates(5, 60, 12, 40)
    tail = sum(math.comb(17, x) * math.comb(83, 40 - x) for x in range(12, 18)) / math.comb(100, 40)
    assert math.exp(up.log_p) == pytest.approx(2 * tail)
    assert up.log_p == pytest.approx(down.log_p)
    assert up.effect == pytest.approx(-down.effect)


@pytest.mark.parametrize("level", [0.05, 0.005])
def test_p_values_of_rates_hold_their_level_when_events_are_rare(level: float) -> None:
    chance, trials = random.Random(1), 2000
    small = sum(
        of_rates(
            sum(chance.random() < 0.02 for _ in range(150)), 150, sum(chance.random() < 0.02 for _ in range(300)), 300
        ).log_p
        <= math.log(level)
        for _ in range(trials)
    )
    assert small / trials <= level


def binned(chance: random.Random, n: int, mean: float = 0.0) -> list[int]:
    counts = [0] * 32
    for _ in range(n):
        counts[max(0, min(31, int(5 * chance.gauss(mean, 1.0)) + 16))] += 1
    return counts


@pytest.mark.parametrize("level", [0.05, 0.01])
def test_p_values_of_histograms_hold_their_level(level: float) -> None:
    chance, trials = random.Random(2), examples(600)
    small = sum(of_histograms(binned(chance, 200), binned(chance, 400)).log_p <= math.log(level) for _ in range(trials))
    assert small / trials <= level


def test_effect_of_histograms_is_the_gap_of_the_distribution_functions() -> None:
    assert of_histograms([5, 5, 0], [0, 5, 5]).effect == pytest.approx(0.5)
    assert of_histograms([1, 2, 3], [2, 4, 6]).effect == 0.0


def test_p_values_of_predictions_hold_their_level_when_the_graded_cases_are_chosen_by_score() -> None:
    chance, trials, small = random.Random(3), examples(1500), 0
    for _ in range(trials):
        excess = variance = 0.0
        n = 0
        for _ in range(200):
            p = chance.random() ** 2
            if chance.random() < 0.2 + 0.8 * p:  # the doubtful ones are graded more often
                excess, variance, n = excess + (chance.random() < p) - p, variance + p * (1 - p), n + 1
        small += of_predictions(excess, variance, n).log_p <= math.log(0.05)
    assert small / trials <= 0.05


def test_nothing_is_found_where_nothing_was_counted() -> None:
    assert of_rates(0, 0, 3, 10).log_p == 0.0
    assert of_histograms([0, 0], [1, 2]).effect == 0.0
    assert of_predictions(0.0, 0.0, 0).log_p == 0.0
    assert of_rates(0, 50, 0, 80).log_p == 0.0
