"""How often the intervals of a replay hold the truth when labels are few: of the document in force and of another."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from policies.intervals import Estimate
from policies.quality.estimates import Estimates
from policies.record import Grade
from policies.replay.estimators import Arm, Estimator, Scores, Weighed, estimate, scores, total
from policies.replay.outcomes import BY_STUDENT, BY_TEACHER, STRATA, Outcome
from tests.effort import examples
from tests.traffic_records import decision, shadow

Floats = NDArray[np.float64]
ROWS, DRAWS = 500, examples(400)
IN_FORCE, LOOSER = 0.25, 0.6
"""Share of the requests that the student keeps, the easiest ones. What the document in force has kept is graded for one
half, what the teacher has answered throughout: many labels that say nothing about the student's answers."""
DRAWN = 0.5
TEACHER_RIGHT = 0.95


def student_right(hardness: Floats, wrong: float) -> Floats:
    """P(the student is right): it errs the more the harder a request is."""
    return 1.0 - wrong * (0.5 + 2.0 * hardness)


def truth(kept_share: float, wrong: float) -> tuple[float, float]:
    """Quality and quality loss of a document that leaves the student so much."""
    hardness = (np.arange(100_000) + 0.5) / 100_000
    student = float(student_right(hardness[hardness < kept_share], wrong).mean())
    return kept_share * student + (1 - kept_share) * TEACHER_RIGHT, kept_share * (TEACHER_RIGHT - student)


def drawn_log(seed: int, wrong: float) -> tuple[Floats, Outcome]:
    """How hard each request was, and both models' labels where they were observed."""
    rng = np.random.default_rng(seed)
    hardness = rng.random(ROWS)
    by_student = hardness < IN_FORCE
    seen = ~by_student | (rng.random(ROWS) < DRAWN)
    weight = np.where(seen, np.where(by_student, 1 / DRAWN, 1.0), 0.0)
    chances = (student_right(hardness, wrong), np.full(ROWS, TEACHER_RIGHT))
    labels = [np.where(seen, rng.random(ROWS) < chance, 0.0) for chance in chances]
    strata = np.where(by_student, BY_STUDENT, BY_TEACHER).astype(np.int64)
    student, teacher = (Arm(y, weight, chance) for y, chance in zip(labels, chances, strict=True))
    return hardness, Outcome(student, teacher, strata, np.ones((ROWS, 2), np.bool_), int(seen.sum()))


def mixed(outcome: Outcome, arms: tuple[Weighed, Weighed], *coefficients: Floats) -> Scores:
    parts = zip(arms, coefficients, strict=True)
    return total(*(scores(arm, coefficient, outcome.strata, STRATA) for arm, coefficient in parts))


def replayed(outcome: Outcome, estimator: Estimator, kept: Floats) -> tuple[Estimate, Estimate]:
    """Quality and quality loss of a document that leaves the student the rows that are 1."""
    arms, doubt, of_loss = outcome.weighed(estimator), outcome.doubt(kept, 1 - kept), outcome.doubt_of_difference(kept)
    return (
        estimate(mixed(outcome, arms, kept, 1 - kept), n=doubt.n, doubt=doubt),
        estimate(mixed(outcome, arms, -kept, kept), n=of_loss.n, doubt=of_loss),
    )


def coverages(estimator: Estimator, kept_share: float, wrong: float) -> list[float]:
    """How often the intervals of quality and quality loss hold the truth, over many logs."""
    found = np.zeros((DRAWS, 2))
    for seed in range(DRAWS):
        hardness, outcome = drawn_log(seed, wrong)
        estimates = replayed(outcome, estimator, (hardness < kept_share).astype(np.float64))
        pairs = zip(estimates, truth(kept_share, wrong), strict=True)
        found[seed] = [each.low <= value <= each.high for each, value in pairs]
    return [float(share) for share in found.mean(axis=0)]


@pytest.mark.parametrize(("kept_share", "wrong"), [(IN_FORCE, 0.1), (LOOSER, 0.2)])
def test_interval_covers_the_truth_as_often_as_it_says(kept_share: float, wrong: float) -> None:
    assert all(abs(share - 0.95) <= 0.6 / DRAWS**0.5 for share in coverages("dr", kept_share, wrong))


@pytest.mark.parametrize("kept_share", [IN_FORCE, LOOSER])
def test_interval_covers_the_truth_at_least_as_often_as_it_says_when_errors_are_rare(kept_share: float) -> None:
    """One wrong answer is expected among the labels of what the student has delivered: many logs have none."""
    assert all(share >= 0.95 - 0.2 / DRAWS**0.5 for share in coverages("dr", kept_share, 0.02))


def one_log(hardness: Floats, labels: Floats, drawn: NDArray[np.bool_]) -> tuple[Outcome, Estimates]:
    """The same log for replay and for `locum log quality`: both models' labels are equal."""
    by_student = hardness < IN_FORCE
    seen = drawn | ~by_student
    weight = np.where(seen, np.where(by_student, 1 / DRAWN, 1.0), 0.0)
    arm = Arm(np.where(seen, labels, 0.0), weight, np.full(ROWS, 0.5))
    outcome = Outcome(
        arm, arm, np.where(by_student, BY_STUDENT, BY_TEACHER).astype(np.int64), np.ones((ROWS, 2), np.bool_), 0
    )
    estimates = Estimates()
    for row in range(ROWS):
        route = "student" if by_student[row] else "teacher"
        grade = Grade(grader="exact", student=labels[row], teacher=labels[row])
        about = {"delivered": route, "propensity": 1 / weight[row], "grades": (grade,)} if seen[row] else {}
        estimates.add(decision(row, route=route), [shadow(row, **about)] if about else [])
    return outcome, estimates


@pytest.mark.parametrize("right", [0.8, 1.0])
def test_replay_of_the_document_in_force_is_as_sure_as_the_estimates_of_the_log(right: float) -> None:
    """... and no surer: labels of what the teacher answered say nothing about what the student did."""
    rng = np.random.default_rng(3)
    hardness = rng.random(ROWS)
    labels = (rng.random(ROWS) < right).astype(np.float64)
    outcome, estimates = one_log(hardness, labels, rng.random(ROWS) < DRAWN)
    kept = (hardness < IN_FORCE).astype(np.float64)
    quality, loss = replayed(outcome, "snips", kept)
    told, mix = estimates.total.loss(), estimates.total.mix()
    assert told is not None and mix is not None
    assert (loss.value, loss.n) == (pytest.approx(told.value), told.n)
    assert (quality.value, quality.n) == (pytest.approx(mix.value), mix.n)
    assert loss.half_width == pytest.approx(told.half_width, rel=0.02)
    assert quality.half_width == pytest.approx(mix.half_width, rel=0.1)


def test_interval_allows_for_anything_where_no_label_is_on_a_row_that_counts() -> None:
    """A hundred labels, and all of them on answers that the document would not deliver."""
    kept = np.r_[np.zeros(100), np.ones(20)]
    weight = np.r_[np.ones(100), np.zeros(20)]
    arm, strata = Arm(weight, weight, np.ones(120)), np.full(120, BY_TEACHER, np.int64)
    outcome = Outcome(arm, arm, strata, np.ones((120, 2), np.bool_), 100)
    doubt = outcome.doubt(kept, np.zeros(120))
    assert doubt.n == 0
    found = estimate(mixed(outcome, outcome.weighed("dr"), kept, np.zeros(120)), n=doubt.n, doubt=doubt)
    assert found.value == pytest.approx(20 / 120)
    assert found.low < 0.2 * found.value
