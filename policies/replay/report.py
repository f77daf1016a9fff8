"""A policy document's report: student share, cost, latency and quality with intervals, and what the log cannot tell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policies.intervals import Estimate
from policies.replay.columns import STUDENT, Columns, Flags, Floats
from policies.replay.estimators import (
    Arm,
    Estimator,
    Scores,
    agreement_floor,
    estimate,
    hajek,
    scores,
    total,
)
from policies.replay.evaluate import Verdicts
from policies.replay.models import cross_fitted, folds_of
from policies.replay.outcomes import STRATA, Annotations, Outcome

MAX_UNSUPPORTED = 0.05
"""Share of the requests that the log may leave open before an estimate of quality is refused; below, they count in the
interval with every quality that there can be."""
MONTH_S = 365.25 / 12 * 86_400


@dataclass(frozen=True)
class Report:
    """The effect of one document on the logged requests. None: the log cannot tell."""

    student_share: Estimate
    cost_usd_per_request: Estimate | None
    cost_usd_per_month: Estimate | None
    all_teacher_usd_per_month: Estimate | None
    quality: Estimate | None
    quality_loss: Estimate | None
    latency_s: Estimate | None
    by_reason: dict[str, int]
    unsupported: int
    estimator: Estimator
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name != "warnings":
                found[name] = value.as_json() if isinstance(value, Estimate) else value
        return found


@dataclass(frozen=True)
class Evidence:
    """All that does not depend on the document. Made once for a log (policies/replay/replay.py)."""

    columns: Columns
    notes: Annotations
    quality: Outcome | None
    cost: Outcome
    latency: Outcome
    design: Any
    draft_part: Floats
    window_s: float


@dataclass(frozen=True)
class _Shares:
    """How often the student's answer stands, per row: as far as known from the document alone, and where shadows have
    shown what a review that the log does not have would have said."""

    escalates: Floats
    """P(a review calls the teacher in); 0 where nothing is reviewed."""
    shown: Floats
    """The same where a shadow shows it, else as `escalates`."""
    weight: Floats
    """Of rows whose review a shadow shows, in their stratum."""
    unsupported: Flags


def report(evidence: Evidence, verdicts: Verdicts, shadow_says: Floats, estimator: Estimator = "dr") -> Report:
    """
    Args:
        shadow_says: [n], 1 or 0: what the reviewers would say of the student's answer in a shadow; NaN: not known.
    """
    columns = evidence.columns
    first_student = verdicts.first == STUDENT
    shares = _review_shares(evidence, verdicts, shadow_says)
    strata = evidence.cost.strata
    student = np.where(first_student, 1.0 - shares.escalates, 0.0)
    correction = np.where(first_student, -(shares.shown - shares.escalates), 0.0) * shares.weight
    share = estimate(_scores_of(student + correction), n=len(columns), floor=0.0)
    unsupported = shares.unsupported | verdicts.blind
    quality = loss = None
    warnings: list[str] = []
    if evidence.quality is not None:
        quality, loss, open_rows, warnings = _quality(evidence, shares, first_student, estimator)
        unsupported = unsupported | open_rows
    draft = first_student.astype(np.float64)
    cost = _linear(evidence.cost, shares, (draft, np.where(first_student, shares.escalates, 1.0)),
                   (draft, np.where(first_student, shares.shown, 1.0)), estimator)  # fmt: skip
    part = evidence.draft_part
    waits = _linear(
        evidence.latency, shares,
        (draft * (1 - shares.escalates * (1 - part)), np.where(first_student, shares.escalates, 1.0)),
        (draft * (1 - shares.shown * (1 - part)), np.where(first_student, shares.shown, 1.0)),
        "dr",
    )  # fmt: skip
    everything = _linear(evidence.cost, None, (np.zeros(len(columns)), np.ones(len(columns))), None, estimator)
    n = len(columns)
    per_month = n * MONTH_S / evidence.window_s if evidence.window_s > 0 else float("nan")
    names, counts = verdicts.reasons, np.bincount(verdicts.reason, minlength=len(verdicts.reasons))
    by_reason: dict[str, int] = {}
    for name, count in zip(names, counts.tolist(), strict=True):
        if count:
            by_reason[name] = by_reason.get(name, 0) + count
    return Report(
        student_share=_within(share, 0.0, 1.0),
        cost_usd_per_request=_finite(cost, n),
        cost_usd_per_month=_finite(cost, n, per_month),
        all_teacher_usd_per_month=_finite(everything, n, per_month),
        quality=quality,
        quality_loss=loss,
        latency_s=_finite(waits, n),
        by_reason=dict(sorted(by_reason.items(), key=lambda item: -item[1])),
        unsupported=int(unsupported.sum()),
        estimator=estimator,
        warnings=tuple(warnings),
    )


def _review_shares(evidence: Evidence, verdicts: Verdicts, shadow_says: Floats) -> _Shares:
    columns, strata = evidence.columns, evidence.cost.strata
    escalates = verdicts.escalated.astype(np.float64)
    unknown = ~verdicts.known
    if not unknown.any():
        return _Shares(escalates, escalates, np.zeros(len(columns)), unknown)
    seen = verdicts.reviewed & verdicts.known
    if seen.any():
        weight = seen.astype(np.float64)
        predicted = cross_fitted(evidence.design, escalates, weight, folds_of(columns.ids), bounded=True)
        escalates = np.where(unknown, predicted, escalates)
    else:
        escalates = np.where(unknown, 0.5, escalates)
    drawn = np.zeros(len(columns))
    drawn[evidence.notes.rows] = 1.0 / evidence.notes.propensity
    drawn = np.where(unknown & ~np.isnan(shadow_says), drawn, 0.0)
    cells = strata * 2 + unknown  # only rows with an unknown review stand for each other
    weight = hajek(drawn, cells, STRATA * 2)
    shown = np.where(drawn > 0, shadow_says, escalates)
    enough = np.bincount(cells, drawn > 0, minlength=STRATA * 2)[cells] > 0
    return _Shares(escalates, shown, np.where(enough, weight, 0.0), unknown & ~enough)


def _linear(
    outcome: Outcome,
    shares: _Shares | None,
    base: tuple[Floats, Floats],
    shown: tuple[Floats, Floats] | None,
    estimator: Estimator,
) -> Scores:
    """The outcome under coefficients (student, teacher), corrected where a shadow shows other ones."""
    parts = []
    for index in (0, 1):
        arm = outcome.arm(index)
        used = base[index] != 0
        safe = Arm(arm.y, arm.weight, np.where(used, arm.model, 0.0))
        parts.append(scores(safe, base[index], outcome.strata, STRATA, estimator))
        if shares is not None and shown is not None and shares.weight.any():
            y = np.where(arm.weight > 0, arm.y, arm.model)
            moved = np.where(shares.weight > 0, shares.weight * (shown[index] - base[index]) * y, 0.0)
            parts.append(_scores_of(moved))
    return total(*parts)


def _quality(
    evidence: Evidence, shares: _Shares, first_student: Flags, estimator: Estimator
) -> tuple[Estimate | None, Estimate | None, Flags, list[str]]:
    """Quality, its loss against all-teacher, the rows that have no label of their kind, and warnings."""
    outcome = evidence.quality
    assert outcome is not None  # noqa: S101 - the caller has looked
    size = len(first_student)
    student = np.where(first_student, 1.0 - shares.escalates, 0.0)
    shown = np.where(first_student, 1.0 - shares.shown, 0.0)
    needs = np.stack([student > 0, student < 1], axis=1)
    open_quality = (needs & ~outcome.supported).any(axis=1) | (shares.unsupported & first_student)
    open_loss = (student > 0) & (~outcome.supported.all(axis=1) | shares.unsupported)
    filled = _filled(outcome)
    warnings: list[str] = []
    quality = loss = None
    floor = agreement_floor(np.concatenate([outcome.student.weight, outcome.teacher.weight]))
    labels = outcome.observed
    for name, open_rows, base, moved, low, high in (
        ("quality", open_quality, (student, 1 - student), (shown, 1 - shown), 0.0, 1.0),
        ("quality_loss", open_loss, (-student, student), (-shown, shown), -1.0, 1.0),
    ):
        share = float(open_rows.mean())
        if share > MAX_UNSUPPORTED:
            warnings.append(
                f"{name} is not estimated: for {share:.0%} of the requests the log has no graded answer of the model "
                "that the document sends them to. Shadow sampling in both directions makes it identifiable"
            )
            continue
        found = _linear(filled, shares, base, moved, estimator)
        level = floor * float(np.abs(base[0]).mean() if name == "quality_loss" else 1.0)
        value = _within(_widened(estimate(found, n=labels, floor=level), share, low, high), low, high)
        if name == "quality":
            quality = value
        else:
            loss = value
    return quality, loss, open_quality, warnings


def _filled(outcome: Outcome) -> Outcome:
    """Models of cells without labels: the mean of what is known of the arm elsewhere. At most MAX_UNSUPPORTED of the
    rows need it, and the interval is widened for them."""
    arms = []
    for index in (0, 1):
        arm = outcome.arm(index)
        known = ~np.isnan(arm.model)
        mean = float(arm.model[known].mean()) if known.any() else 0.5
        arms.append(replace(arm, model=np.where(known, arm.model, mean)))
    return replace(outcome, student=arms[0], teacher=arms[1])


def _widened(found: Estimate, share: float, low: float, high: float) -> Estimate:
    """With the worst and the best outcome for a share of the requests of which nothing is known (Manski 1990)."""
    return replace(found, low=found.low - share * (found.value - low), high=found.high + share * (high - found.value))


def _within(found: Estimate, low: float, high: float) -> Estimate:
    def clip(value: float) -> float:
        return min(high, max(low, value))

    return replace(found, value=clip(found.value), low=clip(found.low), high=clip(found.high))


def _finite(found: Scores, n: int, scale: float = 1.0) -> Estimate | None:
    value = estimate(found, n=n, scale=scale)
    return value if np.isfinite(value.value) and np.isfinite(value.half_width) else None


def _scores_of(value: Floats) -> Scores:
    return Scores(value, value)
