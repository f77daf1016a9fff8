"""The figures of a routing score, against values computed by hand and against slow, plain versions of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.trainer.routing.data import outcomes
from trainer.evaluation.statistics import auroc as plain_auroc
from trainer.routing import measures
from trainer.routing.figures import Resamples, differences, samples, summary
from trainer.routing.outcomes import Floats


def ones(n: int) -> Floats:
    return np.ones((1, n))


def exact_of(score: Floats, advantage: Floats, weights: Floats | None = None) -> measures.Curve:
    return measures.curve(measures.ranking(score), ones(len(score)) if weights is None else weights, advantage)


def deciles_of(score: Floats, advantage: Floats, weights: Floats | None = None) -> measures.Curve:
    ranked = measures.ranking(score)
    weights = ones(len(score)) if weights is None else weights
    return measures.decile_points(ranked, measures.curve(ranked, weights, advantage), weights)


def plain_routellm(score: Floats, weak: Floats, strong: Floats) -> tuple[list[float], list[float], float, float, float]:
    """Shares, accuracies, APGR, CPT50 and CPT80 by the published steps, one threshold after the other."""
    edges = np.quantile(score, np.linspace(0, 1, 11))
    shares, accuracies = [], []
    for index, edge in enumerate(edges):
        called = score > edge if index == len(edges) - 1 else score >= edge
        shares.append(float(called.mean()))
        accuracies.append(float(np.where(called, strong, weak).mean()))
    shares, accuracies = shares[::-1], accuracies[::-1]
    low, high = weak.mean(), strong.mean()
    base = np.trapezoid(np.full(11, low), shares)
    apgr = (np.trapezoid(accuracies, shares) - base) / (np.trapezoid(np.full(11, high), shares) - base)
    cpt50, cpt80 = (100 * np.interp(part * (high - low) + low, accuracies, shares) for part in (0.5, 0.8))
    return shares, accuracies, float(apgr), float(cpt50), float(cpt80)


def test_exact_figures_are_those_computed_by_hand() -> None:
    curve = exact_of(np.array([0.4, 0.9, 0.1, 0.7]), np.array([1.0, 1.0, 0.0, 0.0]))
    assert curve.gap[0] == 0.5
    assert curve.apgr()[0] == pytest.approx(0.625)
    assert curve.cpt(0.5)[0] == pytest.approx(25)
    assert curve.cpt(0.8)[0] == pytest.approx(65)
    assert curve.recovered(0.2)[0] == pytest.approx(0.4)
    assert curve.recovered(0.75)[0] == pytest.approx(1.0)


def test_routellm_figures_are_those_computed_by_hand() -> None:
    score = np.arange(10)[::-1] / 10
    points = deciles_of(score, np.array([1, 0, 1, 0, 0, 1, 0, 0, 0, 0], dtype=float))
    assert points.shares[0] == pytest.approx(np.arange(11) / 10)
    assert points.apgr()[0] == pytest.approx(0.1 * (2 / 3 + 2 + 4 + 0.5))
    assert measures.interpolated_cpt(points, 0.5)[0] == pytest.approx(25)
    assert measures.interpolated_cpt(points, 0.8)[0] == pytest.approx(54)


@settings(max_examples=examples(150), deadline=None)
@given(st.integers(0, 2**31), st.integers(12, 140), st.sampled_from([1, 3, 10, 10**6]))
def test_routellm_figures_equal_the_published_steps(seed: int, n: int, distinct: int) -> None:
    generator = np.random.default_rng(seed)
    score = np.round(generator.random(n) * distinct) / distinct
    weak, strong = (generator.random(n) < 0.5).astype(float), (generator.random(n) < 0.9).astype(float)
    if strong.mean() <= weak.mean():
        return
    points = deciles_of(score, strong - weak)
    shares, accuracies, apgr, cpt50, cpt80 = plain_routellm(score, weak, strong)
    assert points.shares[0] == pytest.approx(shares)
    assert weak.mean() + points.gains[0] == pytest.approx(accuracies)
    assert points.apgr()[0] == pytest.approx(apgr)
    for part, expected in ((0.5, cpt50), (0.8, cpt80)):
        target = weak.mean() + part * (strong.mean() - weak.mean())
        if np.abs(np.array(accuracies) - target).min() > 1e-9:  # on a point, rounding decides between plateaus
            assert measures.interpolated_cpt(points, part)[0] == pytest.approx(expected, abs=1e-6)


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 7, 10**6]))
def test_weights_count_as_copies_of_the_rows(seed: int, distinct: int) -> None:
    generator = np.random.default_rng(seed)
    n = 40
    score = np.round(generator.random(n) * distinct) / distinct
    advantage = generator.choice([-1.0, 0.0, 0.0, 1.0, 1.0], n)
    weights = generator.integers(0, 4, n).astype(float)
    copies = np.repeat(np.arange(n), weights.astype(int))
    if advantage[copies].sum() <= 0:
        return
    ranked = measures.ranking(score)
    for weighted, copied in (
        (exact_of(score, advantage, weights[None]), exact_of(score[copies], advantage[copies])),
        (deciles_of(score, advantage, weights[None]), deciles_of(score[copies], advantage[copies])),
    ):
        assert weighted.apgr() == pytest.approx(copied.apgr())
        assert weighted.at(0.3) == pytest.approx(copied.at(0.3))
        assert measures.interpolated_cpt(weighted, 0.8) == pytest.approx(
            measures.interpolated_cpt(copied, 0.8), abs=1e-6
        ) or (
            weighted.shares.shape != copied.shares.shape  # rows of weight 0 add points to the exact curve, on its line
        )
    found = measures.auroc(ranked, weights[None], advantage > 0)[0]
    assert found == pytest.approx(plain_auroc(score[copies], advantage[copies] > 0), nan_ok=True)


def test_ties_are_escalated_in_random_order_in_expectation() -> None:
    generator = np.random.default_rng(1)
    score = generator.integers(0, 4, 60).astype(float)
    advantage = generator.choice([-1.0, 0.0, 1.0, 1.0], 60)
    expected = exact_of(score, advantage)
    drawn = [exact_of(score + 1e-6 * generator.random(60), advantage) for _ in range(3000)]
    assert np.mean([each.apgr()[0] for each in drawn]) == pytest.approx(expected.apgr()[0], abs=0.005)
    assert np.mean([each.recovered(0.2)[0] for each in drawn]) == pytest.approx(expected.recovered(0.2)[0], abs=0.01)


def test_constant_score_is_random_routing() -> None:
    rows = outcomes(200)
    found = summary(samples(rows, np.full(200, 0.5), Resamples(np.arange(200), 0, 50), 0.2, probability=False))
    assert found.apgr.estimate == pytest.approx(0.5)
    assert found.apgr_exact.estimate == pytest.approx(0.5)
    assert found.cpt80_exact.estimate == pytest.approx(80)
    assert found.cpt80.estimate == pytest.approx(80)
    assert found.recovered.estimate == pytest.approx(0.2)
    assert found.auroc_strong_better.estimate == pytest.approx(0.5)


@settings(max_examples=examples(30), deadline=None)
@given(st.permutations(range(60)))
def test_figures_do_not_depend_on_the_order_of_the_rows(order: list[int]) -> None:
    rows = outcomes(60, seed=3)
    score = np.round(np.random.default_rng(0).random(60), 1)
    known = samples(rows, score, Resamples(np.arange(60), 0, 1), 0.2, probability=True)
    moved = samples(rows.part(order), score[order], Resamples(np.arange(60), 0, 1), 0.2, probability=True)
    for name, values in known.items():
        assert moved[name][0] == pytest.approx(values[0], nan_ok=True), name


def test_figures_have_no_value_when_there_is_no_gap() -> None:
    rows = outcomes(100)
    equal = rows.part(np.flatnonzero(rows.advantage == 0))
    found = summary(
        samples(equal, np.linspace(0, 1, len(equal)), Resamples(np.arange(len(equal)), 0, 20), 0.2, probability=True)
    )
    assert found.apgr.estimate is None
    assert found.cpt80_exact.estimate is None
    assert found.recovered.estimate is None
    assert found.auroc_strong_better.estimate is None
    assert found.points_left.estimate == 0


def test_costs_count_the_draft_of_a_cascade_and_not_that_of_a_router() -> None:
    rows = outcomes(50)
    rows = type(rows)(**{**vars(rows), "cost_weak": np.full(50, 1.0), "cost_strong": np.full(50, 10.0)})
    found = summary(samples(rows, np.arange(50) / 50, Resamples(np.arange(50), 0, 20), 0.2, probability=True))
    assert found.cost_router is not None and found.cost_cascade is not None
    assert found.cost_router.estimate == pytest.approx(0.2 + 0.8 * 0.1)
    assert found.cost_cascade.estimate == pytest.approx(0.2 + 0.1)


def test_better_score_has_a_paired_difference_above_zero() -> None:
    rows = outcomes(800)
    resamples = Resamples(np.arange(800), 0, 300)
    generator = np.random.default_rng(0)
    good, bad = (rows.advantage + generator.normal(0, width, 800) for width in (0.7, 0.9))
    found = differences(*(samples(rows, each, resamples, 0.2, probability=False) for each in (good, bad)))
    assert found["apgr"].low is not None and found["apgr"].low > 0
    alone = summary(samples(rows, good, resamples, 0.2, probability=False)).apgr
    assert alone.low is not None and alone.high is not None and alone.low < 0.9
    same = differences(*(samples(rows, good, resamples, 0.2, probability=False) for _ in range(2)))
    assert (same["apgr"].low, same["apgr"].high) == (0, 0)


def test_intervals_are_wider_when_near_duplicates_are_resampled_together() -> None:
    rows = outcomes(100)
    doubled = rows.part([*range(100), *range(100)])
    score = np.tile(np.random.default_rng(2).random(100), 2)
    alone = summary(samples(doubled, score, Resamples(np.arange(200), 0, 400), 0.2, probability=False)).accuracy
    together = summary(
        samples(doubled, score, Resamples(np.tile(np.arange(100), 2), 0, 400), 0.2, probability=False)
    ).accuracy
    assert together.high - together.low > 1.2 * (alone.high - alone.low)  # type: ignore[operator]
