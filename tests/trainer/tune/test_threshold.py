"""Threshold and calibrator: the limits hold on the rows, and on simulated requests the prediction comes true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Abstain, RequestFeatures, RouteDecision
from policies.calibration import Isotonic, Platt
from trainer.tune.cut import WishNotMet, candidates, choose, risks_of
from trainer.tune.folds import assign_folds
from trainer.tune.threshold import (
    MIN_LABELS,
    MIN_OF_EACH,
    Answers,
    TooFewLabels,
    UselessSignal,
    Wish,
    check_labels,
    curve,
    fit_calibrator,
    tune,
)

FEATURES = RequestFeatures(prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1)


def simulated(n: int, seed: int, *, slope: float = 3.0, teacher: float | None = 0.9) -> Answers:
    """Requests whose P(right) is a known function of the mean logprob; the teacher is right with `teacher`."""
    generator = np.random.default_rng(seed)
    logprob = -generator.exponential(0.6, n)
    right = generator.random(n) < 1 / (1 + np.exp(-(slope * logprob + 2.5)))
    judged = np.full(n, np.nan) if teacher is None else (generator.random(n) < teacher).astype(float)
    return Answers(logprob, right, judged, tuple(str(i) for i in range(n)))


def answers_of(rows: list[tuple[float, bool, float | None]]) -> Answers:
    return Answers(
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows], dtype=bool),
        np.array([np.nan if row[2] is None else row[2] for row in rows]),
        tuple(str(i) for i in range(len(rows))),
    )


# Few distinct logprobs, so that ties occur.
logprobs = st.one_of(st.floats(-20, 0), st.sampled_from([-3.0, -1.0, -0.5, 0.0]))
rows = st.lists(st.tuples(logprobs, st.booleans(), st.sampled_from([0.0, 1.0])), min_size=2, max_size=80).filter(
    lambda found: 0 < sum(right for _, right, _ in found) < len(found)
)
shares = st.floats(0, 1)
methods = st.sampled_from(["platt", "isotonic"])


@settings(deadline=None)
@given(rows, shares, methods)
def test_threshold_never_escalates_more_than_the_wish_on_the_rows(
    found: list[tuple[float, bool, float]], share: float, method: str
) -> None:
    answers = answers_of(found)
    risks = risks_of(fit_calibrator(answers, method), answers.logprob)
    threshold = choose(risks, answers, Wish(max_teacher_share=share))
    assert 0.0 <= threshold <= 1.0
    escalated = (risks > threshold).mean()
    assert escalated <= share + 1e-9
    # and no tie permitting, one more group of equal scores would be too many
    kept = risks[risks <= threshold]
    if kept.size and kept.max() > 0:
        assert (risks >= kept.max()).mean() > share


@settings(deadline=None)
@given(rows, st.floats(0, 0.5), methods)
def test_loss_on_the_rows_is_within_the_limit_and_no_smaller_share_is_enough(
    found: list[tuple[float, bool, float]], limit: float, method: str
) -> None:
    answers = answers_of(found)
    risks = risks_of(fit_calibrator(answers, method), answers.logprob)

    def loss(threshold: float) -> float:
        return float((answers.teacher - np.where(risks > threshold, answers.teacher, answers.right)).mean())

    try:
        chosen = choose(risks, answers, Wish(max_quality_loss=limit))
    except WishNotMet:
        assert min(risks) == 0.0
        return
    assert loss(chosen) <= limit + 1e-9
    thresholds, escalated = candidates(risks)
    smaller = [t for t, share in zip(thresholds, escalated, strict=True) if share < (risks > chosen).mean()]
    assert all(loss(float(t)) > limit for t in smaller)


@settings(deadline=None)
@given(rows, methods)
def test_candidates_reach_every_share_without_cutting_a_tie(
    found: list[tuple[float, bool, float]], method: str
) -> None:
    answers = answers_of(found)
    risks = risks_of(fit_calibrator(answers, method), answers.logprob)
    thresholds, escalated = candidates(risks)
    assert [(risks > t).mean() for t in thresholds] == pytest.approx(escalated.tolist())
    assert escalated[0] == 0.0
    assert (np.diff(escalated) > 0).all()
    assert (np.diff(thresholds) < 0).all()


@settings(deadline=None)
@given(rows, methods)
def test_calibrated_risk_never_rises_with_the_logprob(found: list[tuple[float, bool, float]], method: str) -> None:
    answers = answers_of(found)
    fitted = fit_calibrator(answers, method)
    slope_is_negative = isinstance(fitted, Platt) and fitted.slope < 0
    risks = risks_of(fitted, np.sort(answers.logprob))
    assert ((risks >= 0) & (risks <= 1)).all()
    assert (np.diff(risks) <= 1e-12).all() or slope_is_negative


def test_curve_rises_with_the_share_when_the_teacher_is_always_right() -> None:
    answers = simulated(600, 1, teacher=1.0)
    points = curve(risks_of(fit_calibrator(answers), answers.logprob), answers, seed=0)
    accuracies = [point.accuracy for point in points]
    assert accuracies == sorted(accuracies)
    assert (points[0].teacher_share, points[-1].teacher_share) == (0.0, 1.0)
    assert points[-1].accuracy == 1.0
    assert points[0].accuracy == pytest.approx(answers.right.mean())


def test_share_and_accuracy_come_true_on_new_requests() -> None:
    new = simulated(20_000, 999)
    shares_hit = accuracies_hit = 0
    for seed in range(12):
        tuned = tune(simulated(400, seed), Wish(max_teacher_share=0.2), seed=seed)
        escalated = risks_of(tuned.calibrator, new.logprob) > tuned.threshold
        true_share = escalated.mean()
        true_accuracy = np.where(escalated, new.teacher, new.right).mean()
        assert true_share == pytest.approx(0.2, abs=0.085)  # four standard errors of a quantile of 400
        shares_hit += tuned.predicted.teacher_share.low <= true_share <= tuned.predicted.teacher_share.high
        accuracies_hit += tuned.predicted.accuracy.low <= true_accuracy <= tuned.predicted.accuracy.high
    assert shares_hit >= 9
    assert accuracies_hit >= 9


def test_calibrated_confidence_comes_true_and_beats_the_raw_probability() -> None:
    tuned = tune(simulated(2_000, 3), Wish(max_teacher_share=0.2), method="platt")
    assert tuned.ece_after < 0.03 < tuned.ece_before
    fitted = tuned.calibrator
    assert isinstance(fitted, Platt)
    assert (fitted.slope, fitted.intercept) == (pytest.approx(3.0, abs=0.5), pytest.approx(2.5, abs=0.4))


def test_auto_takes_isotonic_from_a_thousand_labels_unless_its_flat_ends_cost_share() -> None:
    assert isinstance(tune(simulated(1_500, 5), Wish(max_teacher_share=0.2)).calibrator, Isotonic)
    assert isinstance(tune(simulated(400, 5), Wish(max_teacher_share=0.2)).calibrator, Platt)
    weak = simulated(1_500, 5, slope=0.4)
    tuned = tune(weak, Wish(max_teacher_share=0.02))
    assert tuned.share_on_rows == pytest.approx(0.02, abs=0.011)


def test_teacher_is_taken_to_be_right_when_too_few_answers_are_known() -> None:
    tuned = tune(simulated(200, 7, teacher=None), Wish(max_quality_loss=0.05))
    assert tuned.teacher_assumed
    assert tuned.teacher_accuracy is None
    assert tuned.n_paired == 0
    known = tune(simulated(200, 7, teacher=0.8), Wish(max_quality_loss=0.05))
    assert not known.teacher_assumed
    assert known.teacher_accuracy is not None
    assert known.share_on_rows < tuned.share_on_rows


def test_empty_answers_count_in_the_share_and_teach_the_calibrator_nothing() -> None:
    answers = simulated(300, 12, teacher=1.0)
    empty = Answers(
        np.concatenate([answers.logprob, np.full(30, np.nan)]),
        np.concatenate([answers.right, np.zeros(30, dtype=bool)]),
        np.ones(330),
        tuple(map(str, range(330))),
    )
    tuned = tune(empty, Wish(max_teacher_share=0.2))
    assert (tuned.n, tuned.n_empty) == (330, 30)
    assert tuned.calibrator == fit_calibrator(answers)
    assert tuned.share_on_rows == pytest.approx(0.2, abs=0.004)
    assert (risks_of(tuned.calibrator, answers.logprob) > tuned.threshold).sum() + 30 == tuned.share_on_rows * 330
    assert tuned.predicted.teacher_share.estimate >= 30 / 330
    fewer = tune(empty, Wish(max_teacher_share=0.05))  # the empty answers alone are more
    assert fewer.share_on_rows == 30 / 330
    loss = tune(empty, Wish(max_quality_loss=0.1))
    assert loss.predicted.quality_loss.estimate == pytest.approx(0.1, abs=0.03)


def test_both_limits_are_refused_when_they_contradict_each_other() -> None:
    answers = simulated(300, 8, teacher=1.0)
    with pytest.raises(WishNotMet, match=r"a loss of at most 0\.001 takes .* of the requests"):
        tune(answers, Wish(max_teacher_share=0.05, max_quality_loss=0.001))
    tuned = tune(answers, Wish(max_teacher_share=0.9, max_quality_loss=0.1))
    assert 0.0 < tuned.share_on_rows < 0.9


@pytest.mark.parametrize(
    ("right", "wrong", "missing"),
    [(0, 0, MIN_LABELS), (40, 5, 5), (60, 0, 40), (0, 60, 40), (98, 2, 150)],
)  # fmt: skip
def test_too_few_labels_are_refused_with_the_number_that_is_missing(right: int, wrong: int, missing: int) -> None:
    answers = answers_of([(-0.1, True, None)] * right + [(-2.0, False, None)] * wrong)
    with pytest.raises(
        TooFewLabels, match=f"{right} right and {wrong} wrong.* Label at least {missing} more"
    ) as refused:
        check_labels(answers)
    assert refused.value.missing == missing


def test_signal_that_says_the_opposite_is_refused() -> None:
    answers = simulated(300, 9)
    upside_down = Answers(answers.logprob, ~answers.right, answers.teacher, answers.groups)
    with pytest.raises(UselessSignal, match="does not tell the student's errors"):
        tune(upside_down, Wish(max_teacher_share=0.2))


def test_one_wrong_answer_repeated_is_one_label() -> None:
    answers = answers_of([(-0.1, True, None)] * 90 + [(-2.0, False, None)] * 10)
    same = Answers(answers.logprob, answers.right, answers.teacher, (*answers.groups[:90], *("same",) * 10))
    check_labels(answers)
    with pytest.raises(TooFewLabels):
        check_labels(same)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=10, max_size=120),
    st.integers(2, 20),
    st.integers(0, 5),
)
def test_folds_keep_a_prompt_together_and_leave_both_classes_in_every_training_part(
    found: list[tuple[int, bool]], folds: int, seed: int
) -> None:
    right = np.array([outcome for _, outcome in found])
    answers = Answers(np.zeros(len(found)), right, np.zeros(len(found)), tuple(str(group) for group, _ in found))
    fold_of = assign_folds(answers, folds, seed)
    by_group: dict[str, set[int]] = {}
    for group, fold in zip(answers.groups, fold_of.tolist(), strict=True):
        by_group.setdefault(group, set()).add(fold)
    assert all(len(each) == 1 for each in by_group.values())
    for outcome in (True, False):
        groups = {group for group, known in zip(answers.groups, right, strict=True) if known == outcome}
        if len(groups) >= MIN_OF_EACH:
            assert all((right[fold_of != fold] == outcome).any() for fold in range(folds))


def test_policy_escalates_exactly_what_the_tuning_escalated() -> None:
    from policies.cascade import Cascade
    from policies.drafts.score import DraftScore
    from policies.record import Draft
    from trainer.tune.report import artefact_of

    answers = simulated(300, 11)
    tuned = tune(answers, Wish(max_teacher_share=0.25))
    policy = Cascade(threshold=tuned.threshold)
    policy._score = DraftScore(calibrator=artefact_of(tuned, student="s", model_sha256=""), silent=None)
    escalated = 0
    for logprob in answers.logprob.tolist():
        answer = policy.review(FEATURES, Draft(text="x", mean_logprob=logprob))
        assert isinstance(answer, RouteDecision | Abstain)
        escalated += isinstance(answer, RouteDecision)
    assert escalated / 300 == tuned.share_on_rows <= 0.25
