"""From labelled answers to a cascade's calibrator and threshold, and to what they will do on requests like these.

One signal orders the requests, the mean logprob; a calibrator is monotone, so it names the cut and does not move it.
What is predicted is measured on rows that neither the calibrator nor the threshold has seen: both are made on the
other folds. Point estimates with intervals, no guarantee.
"""

from __future__ import annotations

import math
import random
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


class WishNotMet(ValueError):
    """No threshold satisfies both limits on these rows."""


class UselessSignal(ValueError):
    """Wrong answers do not have lower logprobs: escalating by them would be worse than by chance."""


@dataclass(frozen=True)
class Answers:
    """Labelled answers of one student, one row a request. All of length n."""

    logprob: Floats
    """Mean logprob of the student's answer, nats."""
    right: Flags
    """Whether the student's answer is right."""
    teacher: Floats
    """Whether the teacher's answer to the same request is right, in [0, 1]; NaN where it is not known."""
    groups: tuple[str, ...]
    """The same for rows that must not be on both sides of a split: the prompt."""

    def __len__(self) -> int:
        return len(self.right)

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
    confidences: Floats
    """[n], P(right), cross-fitted as for ece_after."""
    share_on_rows: float
    """Escalated by calibrator and threshold on the rows themselves: never above the wish."""
    predicted: Prediction
    curve: tuple[CurvePoint, ...]


def tune(answers: Answers, wish: Wish, *, method: Method = "auto", folds: int = 5, seed: int = 0) -> Tuned:
    """Fit the calibrator on all rows, set the threshold, and predict its effect by cross-fitting.

    Raises:
        TooFewLabels: fewer than MIN_LABELS rows, or hardly any right or wrong answer among them.
        UselessSignal: the mean logprob does not tell right from wrong answers.
        WishNotMet: both limits are given and contradict each other here.
    """
    check_labels(answers)
    area = auroc(-answers.logprob, ~answers.right)
    if area is None or area <= USELESS_AUROC or _rises_against_confidence(answers):
        raise UselessSignal(
            f"the mean logprob does not tell the student's errors (AUROC {area or 0.5:.3f} on {len(answers)} answers): "
            "a cascade on it saves nothing. Check the labels and --grader, or label more"
        )
    paired = ~np.isnan(answers.teacher)
    assumed = not _enough(answers.part(np.flatnonzero(paired)))
    if assumed:
        answers = Answers(answers.logprob, answers.right, np.ones(len(answers)), answers.groups)
    calibrator, risks = _fitted(answers, wish, method)
    threshold = choose(risks, answers, wish)
    held_out = _cross_fit(answers, wish, method, folds, seed)
    right, known = answers.right, ~np.isnan(answers.teacher)
    return Tuned(
        calibrator=calibrator,
        threshold=threshold,
        n=len(answers),
        n_paired=int(paired.sum()),
        teacher_assumed=assumed,
        student_accuracy=wilson_interval(int(right.sum()), len(answers)),
        teacher_accuracy=None if assumed else _mean(answers.teacher[known], seed),
        auroc=area,
        ece_before=calibration_error(reliability_bins(np.exp(np.minimum(answers.logprob, 0.0)), right)),
        ece_after=calibration_error(reliability_bins(held_out.confidences, right)),
        right=right,
        confidences=held_out.confidences,
        share_on_rows=float((risks > threshold).mean()),
        predicted=_predicted(answers, held_out.escalated, seed),
        curve=curve(risks, answers, seed),
    )


def check_labels(answers: Answers) -> None:
    """Raises: TooFewLabels."""
    n, right = len(answers), int(answers.right.sum())
    outcomes = _outcomes(answers).values()
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


def choose(risks: Floats, answers: Answers, wish: Wish) -> float:
    """The threshold for scores [n]: the largest share within `max_teacher_share`, the smallest within
    `max_quality_loss`. Rows of one score go together, so the share is below the wish where ties straddle it.

    Raises: WishNotMet.
    """
    thresholds, shares = candidates(risks)
    allowed = 1.0 if wish.max_teacher_share is None else wish.max_teacher_share
    within_share = int(np.flatnonzero(shares <= allowed + 1e-12)[-1])
    if wish.max_quality_loss is None:
        return float(thresholds[within_share])
    losses = _losses(risks, answers)[: len(thresholds)]
    good = np.flatnonzero(losses <= wish.max_quality_loss + 1e-12)
    if not good.size:  # only where answers of risk 0 are wrong: those always stay with the student
        raise WishNotMet(f"no threshold keeps the loss within {wish.max_quality_loss:.3f}")
    if good[0] > within_share:
        raise WishNotMet(
            f"a loss of at most {wish.max_quality_loss:.3f} takes {shares[good[0]]:.1%} of the requests to the "
            f"teacher; at {shares[within_share]:.1%} the loss is {losses[within_share]:.3f}. Allow more of one, or "
            "drop one limit"
        )
    return float(thresholds[good[0]])


def candidates(risks: Floats) -> tuple[Floats, Floats]:
    """Every threshold that makes a difference with the share that it escalates, from none to all.

    Between two scores it lies in the middle, so that logprobs that differ in the last bits decide alike.
    """
    distinct, counts = np.unique(risks, return_counts=True)
    distinct, counts = distinct[::-1], counts[::-1]
    middles = (distinct[:-1] + distinct[1:]) / 2
    middles = np.where(middles < distinct[:-1], middles, distinct[1:])
    lowest = [distinct[-1] / 2] if distinct[-1] > 0 else []  # a risk of 0 is never above a threshold
    thresholds = np.concatenate([distinct[:1], middles, lowest])
    shares = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    return thresholds, shares[: len(thresholds)]


def _losses(risks: Floats, answers: Answers) -> Floats:
    """Accuracy lost against all-teacher at each candidate, from none escalated to all."""
    known = ~np.isnan(answers.teacher)
    lost = np.where(known, answers.teacher - answers.right, 0.0)
    _, score_of = np.unique(risks, return_inverse=True)
    by_score = np.bincount(score_of, weights=lost)
    kept = np.append(np.cumsum(by_score)[::-1], 0.0)  # with every score, then without the highest, ... with none
    return np.asarray(kept / known.sum(), dtype=np.float64)


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
    return fit(answers.logprob.tolist(), answers.right.tolist(), method=method)


def risks_of(calibrator: Calibrator, logprob: Floats) -> Floats:
    """P(wrong), [n], exactly as the policy `cascade` computes it."""
    return np.array([1.0 - (calibrator.confidence(value) or 0.0) for value in logprob.tolist()])


def _rises_against_confidence(answers: Answers) -> bool:
    platt = fit_platt(answers.logprob.tolist(), answers.right.tolist())
    return platt.slope <= 0


def _fitted(answers: Answers, wish: Wish, method: Method) -> tuple[Calibrator, Floats]:
    """The calibrator and its scores; `auto` gives up isotonic regression where its flat ends cost share."""
    calibrator = fit_calibrator(answers, method)
    risks = risks_of(calibrator, answers.logprob)
    share = wish.max_teacher_share
    if method == "auto" and share is not None:
        reached, possible = _reachable(risks, share), _reachable(-answers.logprob, share)
        if reached < possible - TIE_LOSS:
            calibrator = fit_calibrator(answers, "platt")
            risks = risks_of(calibrator, answers.logprob)
    return calibrator, risks


def _reachable(scores: Floats, share: float) -> float:
    """The largest escalated share up to `share` at which no tie is cut."""
    counts = np.unique(scores, return_counts=True)[1][::-1]
    shares = np.cumsum(counts) / counts.sum()
    return float(np.max(shares, where=shares <= share + 1e-12, initial=0.0))


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


def assign_folds(answers: Answers, folds: int, seed: int) -> NDArray[np.intp]:
    """The fold of each row, [n]: groups stay together, right and wrong answers are dealt out evenly.

    Groups with both stand between the two, so that each class is one run and no fold gets all of it.
    """
    outcomes = _outcomes(answers)
    order = list(outcomes)
    random.Random(seed).shuffle(order)  # noqa: S311 - a reproducible split, no secret
    order.sort(key=lambda group: sum(outcomes[group]) / len(outcomes[group]))  # stable: shuffled within a class
    fold_of = {group: position % folds for position, group in enumerate(order)}
    return np.array([fold_of[group] for group in answers.groups], dtype=np.intp)


def _outcomes(answers: Answers) -> dict[str, set[bool]]:
    outcomes: dict[str, set[bool]] = {}
    for group, right in zip(answers.groups, answers.right.tolist(), strict=True):
        outcomes.setdefault(group, set()).add(right)
    return outcomes


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
