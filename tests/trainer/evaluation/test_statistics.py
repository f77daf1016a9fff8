"""The statistics against published values, simulations with known truth, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from trainer.evaluation import noninferiority
from trainer.evaluation.noninferiority import (
    holm,
    holm_levels,
    inferiority_p,
    lower_bound,
    missing_labels,
    non_inferiority_p,
)
from trainer.evaluation.statistics import (
    Pairs,
    auroc,
    calibration_error,
    difference_interval,
    paired_bootstrap,
    pairs,
    reliability_bins,
    tango_score,
    wilson_interval,
)


@st.composite
def counts(draw: st.DrawFn, most: int = 60) -> Pairs:
    n = draw(st.integers(1, most))
    won = draw(st.integers(0, n))
    return Pairs(n, won=won, lost=draw(st.integers(0, n - won)))


def test_tango_score_matches_the_published_value_of_the_contact_lens_trial() -> None:
    # Tango 1998, example 1: 44 pairs, one discordant against the new treatment, margin 0.1: Z = 1.709.
    assert tango_score(Pairs(44, won=0, lost=1), -0.1) == pytest.approx(1.709, abs=5e-4)


def test_difference_interval_matches_the_published_values_of_tango() -> None:
    # Fagerland, Lydersen & Laake 2014: airway hyper-responsiveness, 21 children, 1 against 7 discordant.
    interval = difference_interval(Pairs(21, won=1, lost=7))
    assert (round(interval.low, 3), round(interval.high, 3)) == (-0.517, -0.026)


def test_wilson_interval_matches_newcombe_1998() -> None:
    interval = wilson_interval(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)
    assert wilson_interval(0, 20).low == 0.0
    assert round(wilson_interval(0, 20).high, 4) == 0.1611


@given(counts())
def test_difference_interval_contains_the_estimate_and_is_mirrored_when_the_roles_swap(observed: Pairs) -> None:
    interval = difference_interval(observed)
    other = difference_interval(observed.mirrored)
    assert -1 <= interval.low <= observed.difference <= interval.high <= 1
    assert interval.low == pytest.approx(-other.high, abs=1e-6)


@given(counts(), st.floats(-0.5, 0.5))
def test_score_of_one_table_equals_that_of_many(observed: Pairs, difference: float) -> None:
    many = noninferiority._scores(observed.n, np.array([observed.won]), np.array([observed.lost]), difference)
    assert tango_score(observed, difference) == pytest.approx(float(many[0]), rel=1e-9, abs=1e-9)


@given(counts(), st.floats(0.0, 0.5), st.floats(0.0, 0.5))
def test_evidence_grows_with_the_margin(observed: Pairs, one: float, other: float) -> None:
    """Of the score; the exact p-value of few cases may jump up where tables change places in its order."""
    small, large = sorted((one, other))
    assert tango_score(observed, -large) >= tango_score(observed, -small) - 1e-9


@given(counts(40), st.floats(0.0, 0.3))
@settings(max_examples=examples(60))
def test_no_observation_is_both_shown_within_and_shown_worse(observed: Pairs, margin: float) -> None:
    assert min(1.0, non_inferiority_p(observed, margin)) + inferiority_p(observed, margin) >= 0.5


@pytest.mark.parametrize("n", [5, 20, 70])
@pytest.mark.parametrize("margin", [0.02, 0.1])
def test_non_inferiority_test_keeps_its_level_when_few_cases_are_discordant(n: int, margin: float) -> None:
    """The exact probability of a false claim at the margin, over shares of discordant cases the test did not choose."""
    won, lost = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    inside = won + lost <= n
    won, lost = won[inside], lost[inside]
    scores = noninferiority._scores(n, won, lost, -margin)
    candidates = np.unique(np.round(scores[scores > 1.2], 9))
    low, high = 0, len(candidates)  # the p-value falls with the score: bisect for the smallest one that rejects
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if noninferiority._exact_p(n, candidates[middle], margin) <= 0.05 else (middle + 1, high)
        )
    claims = scores >= (candidates[low] if low < len(candidates) else math.inf) - 1e-9
    ways = noninferiority._log_multinomial(n, won, lost)
    for won_share in (0.0, 0.001, 0.013, 0.07, 0.21, 0.4):
        same_share = 1 - 2 * won_share - margin
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = [
                np.where(count > 0, count * np.log(share), 0.0)
                for count, share in ((won, won_share), (lost, won_share + margin), (n - won - lost, same_share))
            ]
        chances = np.exp(ways + sum(logs))
        assert float(chances[claims].sum()) <= 0.0505


def test_non_inferiority_test_keeps_its_level_when_cases_are_many() -> None:
    generator = np.random.default_rng(1)
    table = generator.multinomial(600, [0.03, 0.05, 0.92], size=4000)  # 2 points worse: exactly the margin
    claims = np.mean([non_inferiority_p(Pairs(600, int(won), int(lost)), 0.02) <= 0.05 for won, lost, _ in table])
    assert 0.03 < claims < 0.065


def test_non_inferiority_is_shown_when_no_case_is_discordant_and_cases_suffice() -> None:
    assert non_inferiority_p(Pairs(20, won=0, lost=0), 0.1) > 0.05
    assert non_inferiority_p(Pairs(40, won=0, lost=0), 0.1) < 0.05
    assert non_inferiority_p(Pairs(5000, won=0, lost=0), 0.02) < 1e-6


def test_inferiority_is_shown_when_the_loss_is_large() -> None:
    assert inferiority_p(Pairs(30, won=0, lost=12), 0.05) < 0.001
    assert inferiority_p(Pairs(30, won=1, lost=2), 0.05) > 0.5


def test_difference_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for won, lost, _ in generator.multinomial(80, [0.04, 0.1, 0.86], size=500):
        interval = difference_interval(Pairs(80, int(won), int(lost)))
        covered += interval.low <= -0.06 <= interval.high
    assert 0.925 < covered / 500 < 0.975


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for trial in range(300):
        student = generator.normal(0.0, 1.0, 200)
        reference = student + generator.normal(0.1, 0.5, 200)
        interval = paired_bootstrap(student, reference, resamples=400, seed=trial)
        covered += interval.low <= -0.1 <= interval.high
    assert 0.9 < covered / 300 < 0.985


def test_bootstrap_is_reproducible_and_agrees_with_the_score_when_outcomes_are_binary() -> None:
    generator = np.random.default_rng(4)
    reference = generator.random(900) < 0.9
    student = np.where(generator.random(900) < 0.06, ~reference, reference)
    first = paired_bootstrap(student, reference, seed=5)
    assert first == paired_bootstrap(student, reference, seed=5)
    score = difference_interval(pairs(student.tolist(), reference.tolist()))
    assert first.low == pytest.approx(score.low, abs=0.004)
    assert first.high == pytest.approx(score.high, abs=0.004)


def test_holm_matches_the_step_down_computed_by_hand() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    assert all(p_values[name] <= adjusted[name] <= 1 for name in p_values)
    in_order = [adjusted[name] for name in sorted(p_values, key=p_values.__getitem__)]
    assert in_order == sorted(in_order)


def test_holm_levels_are_those_of_the_steps_and_stay_where_it_stops() -> None:
    p_values = {"a": 0.001, "b": 0.02, "c": 0.2, "d": 0.9}
    assert holm_levels(p_values, 0.06) == pytest.approx({"a": 0.015, "b": 0.02, "c": 0.03, "d": 0.03})
    assert holm_levels({}, 0.05) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=6))
def test_holm_levels_reject_exactly_what_the_adjusted_values_do(p_values: dict[str, float]) -> None:
    levels, adjusted = holm_levels(p_values, 0.05), holm(p_values)
    near = {name for name, value in adjusted.items() if value == pytest.approx(0.05)}
    assert {n for n in p_values if p_values[n] <= levels[n]} - near == {
        n for n in p_values if adjusted[n] <= 0.05
    } - near


@pytest.mark.parametrize("observed", [Pairs(44, 0, 1), Pairs(30, 3, 5), Pairs(21, 1, 7), Pairs(400, 10, 22)])
def test_lower_bound_is_where_the_test_stops_to_reject(observed: Pairs) -> None:
    bound = lower_bound(observed, 0.05)
    assert non_inferiority_p(observed, -bound + 0.002) <= 0.05 < non_inferiority_p(observed, -bound - 0.002)
    assert bound <= difference_interval(observed, 0.90).low + 1e-3  # exact is never less careful


def test_lower_bound_is_minus_one_when_every_case_is_lost() -> None:
    assert lower_bound(Pairs(20, 0, 20), 0.05) == pytest.approx(-1.0)
    assert -lower_bound(Pairs(20, 0, 20).mirrored, 0.05) == pytest.approx(1 - 2 * 0.05 ** (1 / 20), abs=2e-3)


def test_holm_controls_the_family_wise_error() -> None:
    generator = np.random.default_rng(6)
    false_claims = sum(
        min(holm({str(i): float(p) for i, p in enumerate(row)}).values()) <= 0.05 for row in generator.random((2000, 6))
    )
    assert 0.035 < false_claims / 2000 < 0.065


@pytest.mark.parametrize(("won", "lost", "margin"), [(10, 14, 0.02), (0, 0, 0.05), (5, 20, 0.01)])
def test_missing_labels_decide_the_test_when_they_have_come_at_the_same_rates(
    won: int, lost: int, margin: float
) -> None:
    observed = Pairs(400, won, lost) if margin < 0.05 else Pairs(30, won, lost)
    missing = missing_labels(observed, margin, 0.95)
    assert missing is not None
    factor = (observed.n + missing) / observed.n
    later = Pairs(observed.n + missing, round(won * factor), round(lost * factor))
    assert min(non_inferiority_p(later, margin), inferiority_p(later, margin)) < 0.02


def test_missing_labels_is_none_when_the_difference_is_at_the_margin() -> None:
    assert missing_labels(Pairs(100, won=0, lost=2), 0.02, 0.95) is None


def test_missing_labels_have_the_stated_power() -> None:
    observed = Pairs(200, won=4, lost=5)
    total = 200 + (missing_labels(observed, 0.03, 0.95) or 0)
    generator = np.random.default_rng(7)
    table = generator.multinomial(total, [0.02, 0.025, 0.955], size=800)
    decided = np.mean([non_inferiority_p(Pairs(total, int(won), int(lost)), 0.03) <= 0.05 for won, lost, _ in table])
    assert 0.72 < decided < 0.9


def test_auroc_counts_ties_half_and_is_none_when_a_class_is_missing() -> None:
    assert auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    assert auroc([1.0, 1.0, 1.0], [True, False, True]) == 0.5
    assert auroc([1.0, 2.0], [True, True]) is None


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_auroc_equals_the_count_over_all_pairs(rows: list[tuple[int, bool]]) -> None:
    positives = [score for score, label in rows if label]
    negatives = [score for score, label in rows if not label]
    value = auroc([score for score, _ in rows], [label for _, label in rows])
    if not positives or not negatives:
        assert value is None
        return
    by_hand = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives) / (len(positives) * len(negatives))
    assert value == pytest.approx(by_hand)


def test_calibration_error_is_zero_when_shares_are_as_stated_and_is_the_gap_otherwise() -> None:
    honest = reliability_bins([0.75] * 4, [True, True, True, False])
    assert calibration_error(honest) == pytest.approx(0.0)
    assert calibration_error(reliability_bins([1.0] * 4, [True, True, False, False])) == pytest.approx(0.5)
    assert [each.n for each in reliability_bins([0.0, 0.05, 0.95, 1.0], [True] * 4)] == [2, 2]


@pytest.mark.parametrize("wrong", [(0, 0, 0), (5, 3, 3), (5, -1, 0)])
def test_pairs_refuse_counts_that_cannot_be(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no paired outcomes"):
        Pairs(*wrong)
