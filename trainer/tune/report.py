"""What `locum tune` found, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, expected_calibration_error, reliability
from trainer.evaluation.statistics import Interval
from trainer.tune.rows import Collected
from trainer.tune.threshold import Tuned

LEFT_OUT = {
    "unlabelled": "of the student without a label or score",
    "without_logprob": "labelled, but without a mean logprob",
    "prefix": "of streams that were reviewed by their beginning: they are no sample of whole answers",
    "not_comparable": "labelled, but their messages were not captured, so they may be in the sealed set",
}


def artefact_of(tuned: Tuned, *, student: str, model_sha256: str) -> CalibratorArtefact:
    """The calibrator as a file: what it was fitted on, and how well it is calibrated."""
    right = _right(tuned)
    bins = reliability(tuned.confidences.tolist(), right)
    return CalibratorArtefact(
        calibrator=tuned.calibrator,
        raw=MEAN_LOGPROB,
        student=student,
        student_model_sha256=model_sha256,
        source="labelled records of the traffic log",
        n=len(right),
        n_sufficient=sum(right),
        ece=round(expected_calibration_error(bins), 4),
        reliability=bins,
    )


def _right(tuned: Tuned) -> list[bool]:
    right: list[bool] = tuned.right.tolist()
    return right


class Estimate(msgspec.Struct, frozen=True):
    """A point estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


class Point(msgspec.Struct, frozen=True):
    """One row of the curve: a threshold on all rows."""

    threshold: float
    teacher_share: float
    accuracy: float
    quality_loss: Estimate


class TuneResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `locum tune --json`."""

    student: str
    threshold: float
    calibrator: str
    """`platt` or `isotonic`."""
    n: int
    n_empty: int
    n_paired: int
    teacher_assumed_right: bool
    student_accuracy: Estimate
    teacher_accuracy: Estimate | None
    auroc: float
    ece_before: float
    ece_after: float
    share_on_rows: float
    predicted_teacher_share: Estimate
    predicted_accuracy: Estimate
    predicted_quality_loss: Estimate
    curve: tuple[Point, ...]
    left_out: dict[str, int]
    damaged: int
    """Places of the log that could not be read."""
    sealed_sets: int
    bundle_id: str | None = None
    """The derived bundle; None with --out."""
    files: tuple[str, ...] = ()


def result_of(tuned: Tuned, collected: Collected, *, student: str, sealed_sets: int) -> TuneResult:
    return TuneResult(
        student=student,
        threshold=tuned.threshold,
        calibrator=type(tuned.calibrator).__name__.lower(),
        n=tuned.n,
        n_empty=tuned.n_empty,
        n_paired=tuned.n_paired,
        teacher_assumed_right=tuned.teacher_assumed,
        student_accuracy=_estimate(tuned.student_accuracy),
        teacher_accuracy=None if tuned.teacher_accuracy is None else _estimate(tuned.teacher_accuracy),
        auroc=tuned.auroc,
        ece_before=tuned.ece_before,
        ece_after=tuned.ece_after,
        share_on_rows=tuned.share_on_rows,
        predicted_teacher_share=_estimate(tuned.predicted.teacher_share),
        predicted_accuracy=_estimate(tuned.predicted.accuracy),
        predicted_quality_loss=_estimate(tuned.predicted.quality_loss),
        curve=tuple(
            Point(point.threshold, point.teacher_share, point.accuracy, _estimate(point.quality_loss))
            for point in tuned.curve
        ),
        left_out={cause: collected.counts[cause] for cause in LEFT_OUT},
        damaged=collected.counts["damaged"],
        sealed_sets=sealed_sets,
    )


def lines(result: TuneResult) -> Iterator[str]:
    """The report for people."""
    yield f"student {result.student}: {result.n} labelled answers"
    for cause, meaning in LEFT_OUT.items():
        if result.left_out[cause]:
            yield f"  left out: {result.left_out[cause]} answers {meaning}"
    if result.damaged:
        yield f"  {result.damaged} damaged places of the log were skipped: locum log verify"
    if result.n_empty:
        yield f"  of them empty: {result.n_empty}, which the cascade escalates whatever the threshold is"
    if not result.sealed_sets:
        yield "  no sealed evaluation set was given: nothing proves that these records are not test cases (--exclude)"
    yield ""
    yield f"student accuracy     {_percent(result.student_accuracy)}"
    if result.teacher_accuracy is not None:
        yield f"teacher accuracy     {_percent(result.teacher_accuracy)}, on {result.n_paired} answers of both"
    else:
        yield (
            f"teacher accuracy     taken to be 100 %: only {result.n_paired} of these requests have a judged answer by "
            "the teacher,\n                     so accuracies below are upper bounds"
        )
    yield f"AUROC                {result.auroc:.3f}, of the mean logprob for the student's errors"
    yield (
        f"calibration error    {result.ece_before:.3f} of exp(mean logprob), {result.ece_after:.3f} calibrated "
        f"({result.calibrator}, {result.n - result.n_empty} labels)"
    )
    yield f"threshold            {result.threshold:.6f} = P(the draft is wrong) above which the teacher answers"
    yield ""
    yield "expected on requests like these that reach the cascade (cross-fitted; 95 % intervals; no guarantee):"
    yield f"  to the teacher     {_percent(result.predicted_teacher_share)}"
    yield f"  accuracy           {_percent(result.predicted_accuracy)}"
    yield f"  points left        {_points(result.predicted_quality_loss)} below all-teacher"
    yield ""
    yield f"{'to the teacher':>14}  {'threshold':>9}  {'accuracy':>8}  points below all-teacher"
    for point in result.curve:
        loss = _points(point.quality_loss)
        yield f"{point.teacher_share:14.1%}  {point.threshold:9.6f}  {point.accuracy:8.1%}  {loss}"


def _estimate(interval: Interval) -> Estimate:
    return Estimate(interval.estimate, interval.low, interval.high)


def _percent(value: Estimate) -> str:
    return f"{100 * value.estimate:.1f} % [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def _points(value: Estimate) -> str:
    return f"{100 * value.estimate:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"
