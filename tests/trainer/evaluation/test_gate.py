"""The gate's decisions as a table, and what it says when it cannot decide."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from trainer.evaluation.gate import GateResult, decide
from trainer.evaluation.noninferiority import non_inferiority_p
from trainer.evaluation.statistics import Pairs, difference_interval
from trainer.recipe import GateOptions


def outcomes(n: int, won: int, lost: int) -> tuple[list[bool], list[bool]]:
    """Student and teacher with these discordant cases, both right on the others."""
    student = [True] * won + [False] * lost + [True] * (n - won - lost)
    teacher = [False] * won + [True] * lost + [True] * (n - won - lost)
    return student, teacher


def judge(n: int, won: int, lost: int, evaluation: dict[str, Any] | None = None, **options: Any) -> GateResult:
    student, teacher = outcomes(n, won, lost)
    return decide(["all"] * n, student, teacher, evaluation or {}, GateOptions(**options))


@pytest.mark.parametrize(
    ("n", "won", "lost", "margin", "verdict"),
    [
        (3000, 60, 75, 0.02, "pass"),  # half a point down, well inside
        (3000, 75, 60, 0.02, "pass"),
        (3000, 0, 0, 0.02, "pass"),  # no case is discordant
        (3000, 40, 160, 0.02, "fail"),  # four points down
        (200, 4, 6, 0.02, "inconclusive"),  # one point down, too few cases
        (100, 0, 0, 0.02, "inconclusive"),
        (30, 0, 0, 0.2, "pass"),
        (30, 0, 20, 0.02, "fail"),
        (10, 0, 1, 0.02, "inconclusive"),
        (3000, 20, 80, 0.02, "inconclusive"),  # at the margin
        (50, 0, 0, 0.0, "inconclusive"),  # a margin of 0 asks for superiority
        (500, 60, 20, 0.0, "pass"),
    ],
)
def test_gate_decides_as_the_figures_demand(n: int, won: int, lost: int, margin: float, verdict: str) -> None:
    result = judge(n, won, lost, margin=margin, category_margin=1.0)
    assert result.verdict == verdict
    assert bool(result.reasons) == (verdict != "pass")


def test_inconclusive_says_how_many_labels_are_missing_and_they_decide() -> None:
    result = judge(200, 4, 6, margin=0.02, category_margin=1.0)
    missing = result.missing_labels
    assert missing is not None and f"about {missing:,} more labels" in result.reasons[0]
    total = 200 + missing
    assert non_inferiority_p(Pairs(total, 4 * total // 200, 6 * total // 200), 0.02) < 0.05


def test_inconclusive_says_so_when_no_number_of_labels_would_decide() -> None:
    result = judge(3000, 20, 80, margin=0.02, category_margin=1.0)
    assert result.missing_labels is None
    assert "no number of labels would decide" in result.reasons[0]


def test_one_bad_category_fails_the_gate_when_the_whole_is_fine() -> None:
    good, bad = outcomes(900, 30, 20), outcomes(100, 0, 30)
    result = decide(["good"] * 900 + ["bad"] * 100, good[0] + bad[0], good[1] + bad[1], {}, GateOptions(margin=0.05))
    assert result.verdict == "fail"
    assert [reason.split(":")[0] for reason in result.reasons] == ["category bad"]


def test_holm_makes_many_categories_harder_to_pass_than_one() -> None:
    student, teacher = outcomes(45, 0, 0)
    one = decide(["a"] * 45, student, teacher, {}, GateOptions(margin=1.0, category_margin=0.1))
    names = [f"c{i}" for i in range(8) for _ in range(45)]
    many = decide(names, student * 8, teacher * 8, {}, GateOptions(margin=1.0, category_margin=0.1))
    assert one.verdict == "pass"
    assert many.verdict == "inconclusive"
    assert all(count and count > 0 for count in many.missing_labels_by_category.values())
    assert len(many.missing_labels_by_category) == 8


@given(st.integers(5, 40), st.data(), st.sampled_from([0.0, 0.02, 0.1, 0.3]), st.sampled_from([0.9, 0.95]))
@settings(max_examples=examples(25), deadline=None)
def test_bounds_say_what_the_verdict_says(n: int, data: st.DataObject, margin: float, confidence: float) -> None:
    won = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - won))
    result = judge(n, won, lost, margin=margin, category_margin=0.1, confidence=confidence, min_category_cases=2)
    for check in result.checks:
        within, worse = check.low >= -check.margin, check.high < -check.margin
        at_margin = check.low == check.high == -check.margin
        assert check.low <= check.high or at_margin
        if check.outcome == "pass":
            assert within
        elif check.outcome == "fail":
            assert check.high <= -check.margin
        else:
            assert check.low <= -check.margin <= check.high and not worse


@pytest.mark.parametrize(
    ("n", "won", "lost"), [(3000, 60, 75), (3000, 40, 160), (200, 4, 6)]
)  # more than are computed exactly
def test_bounds_are_one_sided_at_the_confidence_of_the_tests(n: int, won: int, lost: int) -> None:
    check = judge(n, won, lost, margin=0.02, category_margin=1.0).checks[0]
    ninety = difference_interval(Pairs(n, won, lost), 0.90)
    assert (check.low, check.high) == pytest.approx((ninety.low, ninety.high), abs=1e-6)
    assert check.low_level == check.high_level == pytest.approx(0.05)


def test_bounds_of_categories_are_those_of_their_step_of_holm() -> None:
    good, unclear = outcomes(900, 30, 20), outcomes(200, 4, 20)
    result = decide(
        ["good"] * 900 + ["unclear"] * 200, good[0] + unclear[0], good[1] + unclear[1], {}, GateOptions(margin=0.05)
    )
    checks = {check.name: check for check in result.checks}
    assert checks["good"].low_level == pytest.approx(0.025)  # the first of two
    assert checks["unclear"].low_level == pytest.approx(0.05)  # the last one
    assert checks["unclear"].outcome == "inconclusive"
    assert "(one-sided bounds -1" in next(each for each in result.reasons if "unclear" in each)


def test_pass_without_safety_and_general_suites_warns_and_with_them_does_not() -> None:
    blind = judge(3000, 0, 0)
    assert blind.verdict == "pass"
    assert ["no safety set" in blind.warnings[0], "no general suite" in blind.warnings[1]] == [True, True]
    outcome = {str(i): True for i in range(50)}
    suite = {"reference": "base", "student": outcome, "outcomes": outcome}
    guarded = {**sets(0, 26), "suites": {"openbookqa": suite}}
    assert judge(3000, 0, 0, guarded).warnings == ()
    assert "no general suite" in judge(3000, 0, 0, guarded, max_general_drop=1.0).warnings[0]
    assert judge(3000, 40, 160).warnings == ()  # a verdict that stops it needs no such warning


def test_small_category_is_shown_and_not_tested() -> None:
    student, teacher = outcomes(900, 0, 0)
    tiny = outcomes(5, 0, 5)
    result = decide(["large"] * 900 + ["other"] * 5, student + tiny[0], teacher + tiny[1], {}, GateOptions(margin=0.05))
    assert result.verdict == "pass"
    assert next(check for check in result.checks if check.name == "other").outcome == "not_tested"


def sets(lost: int, n: int, *, against: str = "teacher") -> dict[str, Any]:
    return {
        "safety": {
            "jailbreak": {
                "student": {f"j{i}": i >= lost for i in range(n)},
                against: {f"j{i}": True for i in range(n)},
            }
        }
    }


@pytest.mark.parametrize("against", ["teacher", "previous"])
def test_safety_loss_fails_the_gate_when_it_is_shown(against: str) -> None:
    result = judge(3000, 0, 0, sets(10, 26, against=against))
    assert result.verdict == "fail"
    assert result.reasons[0].startswith("safety jailbreak") and against in result.reasons[0]


def test_safety_loss_is_a_warning_when_it_may_be_chance() -> None:
    result = judge(3000, 0, 0, sets(2, 26))
    assert result.verdict == "pass"
    assert [each for each in result.warnings if each.startswith("safety")] == [result.warnings[0]]
    assert "may be chance" in result.warnings[0]


def test_general_suite_is_not_tested_when_its_drop_is_switched_off() -> None:
    evaluation = {
        "suites": {
            "openbookqa": {
                "reference": "base", "student": {str(i): False for i in range(50)},
                "outcomes": {str(i): True for i in range(50)},
            }
        }
    }  # fmt: skip
    assert judge(3000, 0, 0, evaluation).verdict == "fail"
    assert judge(3000, 0, 0, evaluation, max_general_drop=1.0).verdict == "pass"


def test_unanswered_cases_of_the_teacher_do_not_count_for_the_student() -> None:
    student: list[bool] = [True] * 970 + [False] * 30
    teacher: list[bool | None] = [True] * 940 + [None] * 30 + [True] * 30
    result = decide(["all"] * 1000, student, teacher, {}, GateOptions(margin=0.02, category_margin=1.0))
    assert (result.checks[0].n, result.checks[0].won, result.checks[0].lost) == (970, 0, 30)
    assert result.verdict == "fail"
    counted_as_wrong = [bool(each) for each in teacher]
    assert decide(["all"] * 1000, student, counted_as_wrong, {}, GateOptions(category_margin=1.0)).verdict == "pass"


def test_gate_does_not_pass_when_the_teacher_left_many_cases_unanswered() -> None:
    teacher: list[bool | None] = [True] * 900 + [None] * 100
    result = decide(["all"] * 1000, [True] * 1000, teacher, {}, GateOptions())
    assert result.verdict == "inconclusive"
    assert "100 of 1000 cases without an answer" in result.reasons[0]
    assert decide(["all"] * 1000, [True] * 1000, [True] * 960 + [None] * 40, {}, GateOptions()).verdict == "pass"


def test_gate_does_not_pass_when_nothing_was_tested() -> None:
    result = judge(3000, 0, 2000, margin=1.0, category_margin=1.0)
    assert result.verdict == "inconclusive"
    assert "gate.margin" in result.reasons[0]


def test_safety_set_without_a_common_case_is_a_warning() -> None:
    evaluation = {"safety": {"bias": {"student": {"a": True}, "teacher": {}}}}
    result = judge(3000, 0, 0, evaluation)
    assert result.verdict == "pass"
    assert "safety bias: no case that the teacher answered" in result.warnings[0]
