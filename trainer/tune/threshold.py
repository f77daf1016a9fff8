"""From labelled answers to a cascade's calibrator and threshold, and to what they will do on requests like these.

One signal orders the requests, the mean logprob; a calibrator is monotone, so it names the cut and does not move it.
What is predicted is measured on rows that neither the calibrator nor the threshold has seen: both are made on the
other folds. Point estimates with intervals, no guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from policies.calibration import Calibrator, fit, fit_platt
from trainer.evaluation.statistics import (
    Interval,
    auroc,
    calibration_error,
    paired_bootstrap,
    reliability_bins,
    wilson_interval,
)
from trainer.tune.cut import WishNotMet, choose, raw_risks, reachable, risks_of
from trainer.tune.folds import assign_folds, outcomes_by_group

Method = Literal["auto", "platt", "isotonic"]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MIN_LABELS = 50
MIN_OF_EACH = 5
"""Right and wrong answers that a calibrator needs of each; fewer, and a fold may have none."""
TIE_LOSS = 0.01
"""Share that isotonic regression may lose to its flat ends before Platt's curve, which has none, is taken instead."""
USELESS_AUROC = 0.5
CURVE_SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0)


class TooFewLabels(ValueError):
    """Nothing can be fitted. `missing` = how many more labels it takes at least."""

    def __init__(self, message: str, missing: int) -> None:
        super().__init__(message)
        self.missing = missing


class UselessSignal(ValueError):
    """Wrong answers do not have lower logprobs: escalating by them would be worse than by chance."""


@dataclass(frozen=True)
class Answers:
    """Labelled answers of one student, one row a request. All of length n."""

    logprob: Floats
    """Mean logprob of the student's answer, nats; NaN for an empty answer, which escalates whatever the threshold."""
    right: Flags
    """Whether the student's answer is right."""
    teacher: Floats
    """Whether the teacher's answer to the same request is right, in [0, 1]; NaN where it is not known."""
    groups: tuple[str, ...]
    """The same for rows that must not be on both sides of a split: the prompt."""

    def __len__(self) -> int:
        return len(self.right)

    @property
    def scored(self) -> Answers:
        """The rows that have a logprob."""
        return self.part(np.flatnonzero(np.isfinite(self.logprob)))

    def part(self, rows: NDArray[np.intp]) -> Answers:
        return Answers(self.logprob[rows], self.right[rows], self.teacher[rows], tuple(self.groups[i] for i in rows))


@dataclass(frozen=True)
class Wish:
    """What the threshold is to respect; at least one of the two."""

    max_teacher_share: float | None = None
    max_quality_loss: float | None = None
    """Accuracy that may be lost against sending everything to the teacher."""

    def __post_init__(self) -> None:
        if self.max_teacher_share is None and self.max_quality_loss is None:
            raise ValueError("a wish needs max_teacher_share or max_quality_loss")


@dataclass(frozen=True)
class CurvePoint:
    """A threshold on all rows. The accuracy is that of the routed answers."""

    threshold: float
    teacher_share: float
    accuracy: float
    quality_loss: Interval
    """Accuracy of all-teacher minus that of the routed answers."""


@dataclass(frozen=True)
class Prediction:
    """What rows that were held out say about the threshold."""

    teacher_share: Interval
    accuracy: Interval
    quality_loss: Interval


@dataclass(frozen=True)
class Tuned:
    """The result of `tune`."""

    calibrator: Calibrator
    threshold: float
    n: int
    n_empty: int
    """Of them empty answers, which no threshold keeps with the student."""
    n_paired: int
    """Rows whose teacher's answer is known."""
    teacher_assumed: bool
    """Too few are known: the teacher is taken to be always right, and accuracies are upper bounds."""
    student_accuracy: Interval
    teacher_accuracy: Interval | None
    """On the paired rows; None when it is assumed."""
    auroc: float
    """Of the mean logprob for the student's errors."""
    ece_before: float
    """Of exp(mean logprob) taken for a probability."""
    ece_after: float
    """Of the calibrator, every row by one that was fitted on other folds."""
    right: Flags
    """[n - n_empty], what the calibrator was fitted on."""
    confidences: Floats
    """[n - n_empty], P(right), cross-fitted as for ece_after."""
    share_on_rows: float
    """Escalated on the rows themselves: above the wish only when the empty answers alone are."""
    predicted: Prediction
    curve: tuple[CurvePoint, ...]


def tune(answers: Answers, wish: Wish, *, method: Method = "auto", folds: int = 5, seed: int = 0) -> Tuned:
    """Fit the calibrator on all rows, set the threshold, and predict its effect by cross-fitting.

    Raises:
        TooFewLabels: fewer than MIN_LABELS rows, or hardly any right or wrong answer among them.
        UselessSignal: the mean logprob does not tell right from wrong answers.
        WishNotMet: both limits are given and contradict each other here.
    """
    check_labels(answers.scored)
    area = _signal_of(answers.scored)
    paired = ~np.isnan(answers.teacher)
    assumed = not _enough(answers.part(np.flatnonzero(paired)).scored)
    if assumed:
        answers = Answers(answers.logprob, answers.right, np.ones(len(answers)), answers.groups)
    calibrator, risks = _fitted(answers, wish, method)
    threshold = choose(risks, answers, wish)
    held_out = _cross_fit(answers, wish, method, folds, seed)
    right, has_score = answers.right, np.isfinite(answers.logprob)
    scored_right, confidences = right[has_score], held_out.confidences[has_score]
    return Tuned(
        calibrator=calibrator,
        threshold=threshold,
        n=len(answers),
        n_empty=int((~has_score).sum()),
        n_paired=int(paired.sum()),
        teacher_assumed=assumed,
        student_accuracy=wilson_interval(int(right.sum()), len(answers)),
        teacher_accuracy=None if assumed else _mean(answers.teacher[paired], seed),
        auroc=area,
        ece_before=calibration_error(
            reliability_bins(np.exp(np.minimum(answers.logprob[has_score], 0.0)), scored_right)
        ),
        ece_after=calibration_error(reliability_bins(confidences, scored_right)),
        right=scored_right,
        confidences=confidences,
        share_on_rows=float((risks > threshold).mean()),
        predicted=_predicted(answers, held_out.escalated, seed),
        curve=curve(risks, answers, seed),
    )


def check_labels(answers: Answers) -> None:
    """Raises: TooFewLabels."""
    n, right = len(answers), int(answers.right.sum())
    outcomes = outcomes_by_group(answers).values()
    rarer = min(sum(outcome in each for each in outcomes) for outcome in (True, False)) if n else 0
    missing = max(MIN_LABELS - n, 0)
    if rarer < MIN_OF_EACH and n:
        # At the rate seen so far; with none at all, at the highest rate that none in n still allows (rule of three).
        rate = rarer / n if rarer else min(1.0, 3 / n)
        missing = max(missing, math.ceil(MIN_OF_EACH / rate) - n, 1)
    if not missing:
        return
    raise TooFewLabels(
        f"{n} labelled answers of the student, {right} right and {n - right} wrong; it takes {MIN_LABELS}, and "
        f"{MIN_OF_EACH} different requests of each kind. Label at least {missing} more",
        missing,
    )


def _enough(answers: Answers) -> bool:
    try:
        check_labels(answers)
    except TooFewLabels:
        return False
    return True


def curve(risks: Floats, answers: Answers, seed: int) -> tuple[CurvePoint, ...]:
    """The trade between share and accuracy on all rows, at CURVE_SHARES or what ties leave of them."""
    points: dict[float, CurvePoint] = {}
    for wanted in CURVE_SHARES:
        threshold = choose(risks, answers, Wish(max_teacher_share=wanted))
        if threshold not in points:
            escalated = risks > threshold
            predicted = _predicted(answers, escalated, seed)
            points[threshold] = CurvePoint(
                threshold, float(escalated.mean()), predicted.accuracy.estimate, predicted.quality_loss
            )
    return tuple(points.values())


def fit_calibrator(answers: Answers, method: Method = "auto") -> Calibrator:
    scored = answers.scored
    return fit(scored.logprob.tolist(), scored.right.tolist(), method=method)


def _signal_of(answers: Answers) -> float:
    """AUROC of the mean logprob for errors. Raises: UselessSignal."""
    area = auroc(-answers.logprob, ~answers.right) or 0.0
    slope = fit_platt(answers.logprob.tolist(), answers.right.tolist()).slope
    if area <= USELESS_AUROC or slope <= 0:
        raise UselessSignal(
            f"the mean logprob does not tell the student's errors (AUROC {area:.3f} on {len(answers)} answers): a "
            "cascade on it saves nothing. Check the labels and the grader, or label more"
        )
    return area


def _fitted(answers: Answers, wish: Wish, method: Method) -> tuple[Calibrator, Floats]:
    """The calibrator and its scores; `auto` gives up isotonic regression where its flat ends cost share."""
    calibrator = fit_calibrator(answers, method)
    risks = risks_of(calibrator, answers.logprob)
    share = wish.max_teacher_share
    if method == "auto" and share is not None:
        reached, possible = reachable(risks, share), reachable(raw_risks(answers.logprob), share)
        if reached < possible - TIE_LOSS:
            calibrator = fit_calibrator(answers, "platt")
            risks = risks_of(calibrator, answers.logprob)
    return calibrator, risks


@dataclass(frozen=True)
class _HeldOut:
    confidences: Floats
    escalated: Flags


def _cross_fit(answers: Answers, wish: Wish, method: Method, folds: int, seed: int) -> _HeldOut:
    n = len(answers)
    confidences, escalated = np.zeros(n), np.zeros(n, dtype=bool)
    fold_of = assign_folds(answers, folds, seed)
    for fold in range(folds):
        test, rest = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        training = answers.part(rest)
        calibrator, risks = _fitted(training, wish, method)
        try:
            threshold = choose(risks, training, wish)
        except WishNotMet:  # on all rows both limits hold: here the share is the one that is kept
            threshold = choose(risks, training, Wish(max_teacher_share=wish.max_teacher_share or 1.0))
        held_out = risks_of(calibrator, answers.logprob[test])
        confidences[test] = 1.0 - held_out
        escalated[test] = held_out > threshold
    return _HeldOut(confidences, escalated)


def _predicted(answers: Answers, escalated: Flags, seed: int) -> Prediction:
    known = ~np.isnan(answers.teacher)
    teacher = answers.teacher[known]
    routed = np.where(escalated[known], teacher, answers.right[known])
    return Prediction(
        teacher_share=wilson_interval(int(escalated.sum()), len(escalated)),
        accuracy=_mean(routed, seed),
        quality_loss=paired_bootstrap(teacher, routed, seed=seed),
    )


def _mean(values: Sequence[float] | Floats, seed: int) -> Interval:
    return paired_bootstrap(values, np.zeros(len(values)), seed=seed)
