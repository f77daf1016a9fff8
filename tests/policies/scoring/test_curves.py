"""Curves of inputs as a part of a score."""

from __future__ import annotations

import math

import pytest

from policies.scoring.curves import Curve, Curves, CurvesScorer, Term
from policies.scoring.model import ScoreModel
from tests.policies.scoring.building import artefact_of

BENT = Curve("a", (0.0, 1.0, 3.0), (0.0, 2.0, -2.0), 7.0)


@pytest.mark.parametrize(
    ("value", "expected"), [(-5.0, 0.0), (0.5, 1.0), (1.0, 2.0), (2.0, 0.0), (9.0, -2.0), (math.nan, 7.0)]
)
def test_curve_is_linear_between_its_points_and_flat_outside(value: float, expected: float) -> None:
    assert BENT.at(value) == pytest.approx(expected)


def test_part_adds_curves_and_products_of_two() -> None:
    part = Curves(
        intercept=1.0, curves=(BENT, Curve("b", (0.0, 1.0), (0.0, 1.0), 0.5)), terms=(Term(2.0, 0), Term(3.0, 0, 1))
    )
    scorer = CurvesScorer(part)
    assert scorer.inputs == {"a", "b"}
    assert scorer.score({"a": 0.5, "b": 0.25}, None, None) == pytest.approx(1.0 + 2.0 + 0.75)
    assert scorer.score({"a": 0.5, "b": math.nan}, None, None) == pytest.approx(1.0 + 2.0 + 1.5)


def test_score_multiplies_what_earlier_parts_gave_when_a_curve_names_them() -> None:
    first = Curves(intercept=0.0, curves=(Curve("a", (0.0, 1.0), (0.0, 1.0), 0.0),), terms=(Term(1.0, 0),), squash=True)
    itself = Curve("part_0", (0.0, 1.0), (0.0, 1.0), 0.0)
    model = ScoreModel(
        artefact_of(
            first, Curves(intercept=0.0, curves=(itself,), terms=(Term(4.0, 0, 0),)), inputs=("a",), weights=(0.0, 1.0)
        )
    )
    assert model.raw({"a": 0.0}, None) == pytest.approx(4 * 0.25)


@pytest.mark.parametrize(
    ("x", "y", "missing"),
    [
        ((), (), 0.0),
        ((0.0, 0.0), (1.0, 2.0), 0.0),
        ((1.0, 0.0), (1.0, 2.0), 0.0),
        ((0.0,), (1.0, 2.0), 0.0),
        ((0.0,), (math.inf,), 0.0),
        ((0.0,), (0.0,), math.nan),
    ],
)
def test_curve_is_refused_when_its_points_do_not_rise_or_are_not_finite(
    x: tuple[float, ...], y: tuple[float, ...], missing: float
) -> None:
    with pytest.raises(ValueError, match="curve"):
        Curve("a", x, y, missing)


@pytest.mark.parametrize(
    "part",
    [
        Curves(intercept=0.0, curves=(BENT,), terms=(Term(1.0, 1),)),
        Curves(intercept=0.0, curves=(BENT,), terms=(Term(1.0, 0, -1),)),
        Curves(intercept=math.nan, curves=(BENT,), terms=()),
        Curves(intercept=0.0, curves=(BENT,), terms=(Term(math.inf, 0),)),
    ],
)
def test_part_is_refused_when_a_term_names_no_curve_or_a_number_is_not_finite(part: Curves) -> None:
    with pytest.raises(ValueError, match=r"finite|not there"):
        CurvesScorer(part)
