"""A policy document's report: student share, cost, latency and quality with intervals, and what the log cannot tell."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from policies.intervals import Estimate
from policies.replay.annotations import Annotations
from policies.replay.columns import STUDENT, Columns, Flags, Floats
from policies.replay.estimators import Doubt, Estimator, Scores, Strata, Weighed, estimate, hajek, scores, total
from policies.replay.evaluate import Verdicts
from policies.replay.models import cross_fitted, folds_of, sample
from policies.replay.outcomes import STRATA, Designs, Outcome

MAX_UNSUPPORTED = 0.05
"""Share of the requests that the log may leave open before an estimate of quality is refused; below, they count in the
interval with the worst and the best quality that there is."""
MAX_FITTED = 10_000
"""Known reviews that the model of unknown ones is fitted on, for each document anew."""
MONTH_S = 365.25 / 12 * 86_400


@dataclass(frozen=True)
class Report:
    """The effect of one document on the logged requests. None: the log cannot tell."""

    student_share: Estimate | None
    cost_usd_per_request: Estimate | None
    cost_usd_per_month: Estimate | None
    all_teacher_usd_per_month: Estimate | None
    quality: Estimate | None
    quality_loss: Estimate | None
    """Against all-teacher, on the same requests."""
    latency_s: Estimate | None
    by_reason: dict[str, int]
    unsupported: int
    """Requests for which the log has no observation of what the document asks about: their part is a model's."""
    estimator: Estimator
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The form of the admin API; the warnings stand beside it there."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "warnings"}
        return {name: value.as_json() if isinstance(value, Estimate) else value for name, value in values.items()}


@dataclass(frozen=True)
class Measured:
    """An outcome, ready for any number of documents."""

    outcome: Outcome
    arms: tuple[Weighed, Weighed]

    @classmethod
    def by(cls, estimator: Estimator, outcome: Outcome) -> Measured:
        return cls(outcome, outcome.weighed(estimator))


@dataclass(frozen=True)
class Evidence:
    """All that does not depend on the document; made once for a selection of a log."""

    columns: Columns
    notes: Annotations
    designs: Designs
    quality: Measured | None
    """None: nobody graded anything."""
    cost: Measured
    latency: Measured
    estimator: Estimator
    draft_part: Floats
    """[n]: how much of the student's time passes before its draft is judged."""
    window_s: float


@dataclass(frozen=True)
class Escalation:
    """P(a review calls the teacher in), per row; 0 where nothing is reviewed."""

    base: Floats
    """Known from the log, else predicted from what is known of the request."""
    shown: Floats
    """As shadows show it where they do, else `base`."""
    weight: Floats
    """Of the rows that shadows show, standing for all rows of their cell; 0 elsewhere."""
    cells: Strata
    unsupported: Flags
    """Neither known nor shown for rows like these."""


def report(evidence: Evidence, verdicts: Verdicts, shadow_says: Floats) -> Report:
    """
    Args:
        shadow_says: [n], 1 or 0: whether the reviewers would call the teacher in on the student's answer that a shadow
            has; NaN: no shadow tells.
    """
    n = len(evidence.columns)
    by_student = verdicts.first == STUDENT
    drafts = by_student.astype(np.float64)
    review = _escalation(evidence, verdicts, shadow_says)
    unsupported = review.unsupported | verdicts.blind
    warnings = _warnings(review, verdicts, n)

    def mixed(measured: Measured, student: tuple[Floats, Floats], teacher: tuple[Floats, Floats]) -> Scores:
        return _outcome_scores(measured, review, student, teacher)

    def answered_by_teacher(escalates: Floats) -> Floats:
        return np.where(by_student, escalates, 1.0)

    asked_teacher = answered_by_teacher(review.base), answered_by_teacher(review.shown)
    kept = 1.0 - asked_teacher[0], 1.0 - asked_teacher[1]
    share = _within(estimate(total(Scores(kept[0], kept[0]), *_moved(review, *kept, np.ones(n))), n=n), 0.0, 1.0)
    cost = mixed(evidence.cost, (drafts, drafts), asked_teacher)
    whole = (np.zeros(n), np.zeros(n)), (np.ones(n), np.ones(n))
    all_teacher = mixed(evidence.cost, *whole)
    part = evidence.draft_part
    waits = drafts * (kept[0] + part * (1 - kept[0])), drafts * (kept[1] + part * (1 - kept[1]))
    latency = mixed(evidence.latency, waits, asked_teacher)
    quality = loss = None
    if evidence.quality is not None:
        needs = np.stack([kept[0] > 0, asked_teacher[0] > 0], axis=1)
        open_rows = (needs & ~evidence.quality.outcome.supported).any(axis=1) | review.unsupported
        open_loss = needs[:, 0] & (~evidence.quality.outcome.supported.all(axis=1) | review.unsupported)
        unsupported = unsupported | open_rows
        graded = evidence.quality
        found, doubt = mixed(graded, kept, asked_teacher), graded.outcome.doubt(kept[0], asked_teacher[0])
        quality = _bounded("quality", found, doubt, open_rows, warnings, lowest=0.0)
        found, doubt = mixed(graded, (-kept[0], -kept[1]), kept), graded.outcome.doubt_of_difference(kept[0])
        loss = _bounded("quality_loss", found, doubt, open_loss, warnings, lowest=-1.0)
    per_month = n * MONTH_S / evidence.window_s if evidence.window_s > 0 else np.nan
    hopeless = _hopeless(review)
    return Report(
        student_share=None if hopeless else share,
        cost_usd_per_request=None if hopeless else _finite(cost, n),
        cost_usd_per_month=None if hopeless else _finite(cost, n, per_month),
        all_teacher_usd_per_month=_finite(all_teacher, n, per_month),
        quality=quality,
        quality_loss=loss,
        latency_s=None if hopeless else _finite(latency, n),
        by_reason=_counts(verdicts),
        unsupported=int(unsupported.sum()),
        estimator=evidence.estimator,
        warnings=tuple(warnings),
    )


def _escalation(evidence: Evidence, verdicts: Verdicts, shadow_says: Floats) -> Escalation:
    """What a review says is known where the log has the draft; elsewhere a model of the known ones stands in, which
    shadows of the student correct."""
    columns, strata = evidence.columns, evidence.cost.outcome.strata
    base, unknown = verdicts.escalated.astype(np.float64), ~verdicts.known
    nothing = np.zeros(len(columns))
    if not unknown.any():
        return Escalation(base, base, nothing, strata, unknown)
    drawn = nothing.copy()
    drawn[evidence.notes.rows] = 1.0 / evidence.notes.propensity
    drawn = np.where(unknown & ~np.isnan(shadow_says), drawn, 0.0)
    seen = np.where(verdicts.reviewed & verdicts.known, 1.0, drawn)
    said = np.where(drawn > 0, np.nan_to_num(shadow_says), base)
    rows = np.flatnonzero(unknown)
    fitted_on = sample(np.flatnonzero(seen > 0), MAX_FITTED)
    both = np.concatenate([fitted_on, rows])
    known = np.where(np.arange(len(both)) < len(fitted_on), seen[both], 0.0)
    predicted = cross_fitted(
        evidence.designs.before[both], said[both], known, folds_of(columns.ids[both]), bounded=True
    )
    base[rows] = predicted[len(fitted_on) :]
    cells = strata * 2 + unknown  # only rows with an unknown review stand for each other
    weight = hajek(drawn, cells, STRATA * 2)
    shown = np.where(drawn > 0, said, base)
    unsupported = unknown & (np.bincount(cells, drawn > 0, minlength=STRATA * 2)[cells] == 0)
    return Escalation(base, shown, weight, cells, unsupported)


def _hopeless(review: Escalation) -> bool:
    """Whether no review of the document is known from anywhere."""
    return bool(np.isnan(review.base).any())


def _warnings(review: Escalation, verdicts: Verdicts, n: int) -> list[str]:
    found = []
    unknown = int(review.unsupported.sum())
    if _hopeless(review):
        found.append(
            f"what the reviewers would say of {unknown} requests is not known, nor of any like them: no draft with a "
            "mean logprob is in the log. Set student.capture_logprobs, or shadow the teacher's answers"
        )
    elif unknown > MAX_UNSUPPORTED * n:
        found.append(
            f"what the reviewers would say of {unknown} requests ({unknown / n:.0%}) is a model's guess: the log has "
            "no draft of them, nor shadows of requests like them"
        )
    blind = int(verdicts.blind.sum())
    if blind:
        found.append(
            f"{blind} requests were not captured in full: a policy that reads the question abstains on them here"
        )
    return found


def _outcome_scores(
    measured: Measured,
    review: Escalation,
    student: tuple[Floats, Floats],
    teacher: tuple[Floats, Floats],
) -> Scores:
    """The outcome under coefficients of both answers, each as known from `Escalation.base` and from `.shown`."""
    parts = []
    for arm, (base, shown) in zip(measured.arms, (student, teacher), strict=True):
        parts.append(scores(arm, base, measured.outcome.strata, STRATA))
        parts += _moved(review, base, shown, arm.outcome)
    return total(*parts)


def _moved(review: Escalation, base: Floats, shown: Floats, outcome: Floats) -> list[Scores]:
    """What changes where shadows show other coefficients than the model of the reviews had."""
    rows = np.flatnonzero(review.weight)
    if not len(rows):
        return []
    change = shown[rows] - base[rows]
    moved = np.zeros(len(base))
    moved[rows] = np.where(change != 0, review.weight[rows] * change * outcome[rows], 0.0)
    size = np.maximum(np.bincount(review.cells, minlength=STRATA * 2), 1)
    mean = np.bincount(review.cells, moved, minlength=STRATA * 2) / size
    return [Scores(moved, moved - np.where(mean[review.cells] != 0, (review.weight - 1.0) * mean[review.cells], 0.0))]


def _bounded(
    name: str, found: Scores, doubt: Doubt, unknown: Flags, warnings: list[str], *, lowest: float
) -> Estimate | None:
    """An estimate within [lowest, 1]. For the rows that are not known it allows for the worst and the best (Manski
    1990); with too many of them it is refused."""
    open_share = float(unknown.mean())
    if open_share > MAX_UNSUPPORTED:
        warnings.append(
            f"{name} is not estimated: for {open_share:.0%} of the requests nobody has graded an answer of the model "
            "that they would go to, nor for requests like them. Shadow sampling in both directions makes it known"
        )
        return None
    value = estimate(found, n=doubt.n, doubt=doubt)
    low = value.low - open_share * (value.value - lowest)
    high = value.high + open_share * (1.0 - value.value)
    return _within(replace(value, low=low, high=high), lowest, 1.0)


def _within(found: Estimate, low: float, high: float) -> Estimate:
    def clip(value: float) -> float:
        return min(high, max(low, value))

    return replace(found, value=clip(found.value), low=clip(found.low), high=clip(found.high))


def _finite(found: Scores, n: int, scale: float = 1.0) -> Estimate | None:
    value = estimate(found, n=n, scale=scale)
    return value if np.isfinite(value.half_width) else None


def _counts(verdicts: Verdicts) -> dict[str, int]:
    counts = np.bincount(verdicts.reason, minlength=len(verdicts.reasons)).tolist()
    found: dict[str, int] = {}
    for name, count in zip(verdicts.reasons, counts, strict=True):
        if count:
            found[name] = found.get(name, 0) + count
    return dict(sorted(found.items(), key=lambda item: -item[1]))
