"""What came of the logged requests: quality, cost and latency of either model's answer, as far as they were observed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.record import FeedbackRecord, ShadowRecord
from policies.replay.columns import STUDENT, TEACHER, Codes, Columns, Flags, Floats, Ints, _finish, id_of
from policies.replay.estimators import Arm, Strata
from policies.replay.models import Matrix, cross_fitted, folds_of, standardised

MIN_LABELS = 30
"""Labels of an arm in a stratum, below which it counts as not observed."""
EXPLORED = 3
STRATA = 4
"""The student answered, the teacher did, the teacher did after a draft; EXPLORED: the route was drawn by lot."""


@dataclass(frozen=True)
class Annotations:
    """Shadows and feedback that belong to rows of the columns; one row each."""

    rows: Ints
    propensity: Floats
    ok: Flags
    cost_usd: Floats
    logprob: Floats
    finish: Codes
    quality: Floats
    """[m, 2]: of the student's and of the teacher's answer."""
    feedback_rows: Ints
    feedback_score: Floats


def annotations_of(columns: Columns, shadows: list[ShadowRecord], feedback: list[FeedbackRecord]) -> Annotations:
    """Join to the columns; the newest of a request counts, and feedback only of the record's own tenant."""
    order = np.argsort(columns.ids, kind="stable")
    ids = columns.ids[order]

    def row_of(decision_id: str) -> int:
        wanted = id_of(decision_id)
        place = int(np.searchsorted(ids, wanted))
        return int(order[place]) if place < len(ids) and ids[place] == wanted else -1

    newest = {row_of(each.decision_id): each for each in sorted(shadows, key=lambda each: each.created_s)}
    newest.pop(-1, None)
    scored: dict[int, float] = {}
    for each in sorted(feedback, key=lambda each: each.created_s):
        row = row_of(each.decision_id)
        if each.score is not None and row >= 0 and columns.names[columns.tenant[row]] == each.tenant:
            scored[row] = each.score
    drawn = list(newest.values())
    return Annotations(
        rows=np.array(list(newest), np.int64),
        propensity=np.array([each.propensity for each in drawn], np.float64),
        ok=np.array([each.status == "ok" for each in drawn], np.bool_),
        cost_usd=np.array([_number(each.cost_usd) for each in drawn], np.float64),
        logprob=np.array([_number(each.mean_logprob) for each in drawn], np.float64),
        finish=np.array([_finish(each.finish_reason) for each in drawn], np.int32),
        quality=np.array([_quality(each) for each in drawn], np.float64).reshape(len(drawn), 2),
        feedback_rows=np.array(list(scored), np.int64),
        feedback_score=np.array(list(scored.values()), np.float64),
    )


def _quality(shadow: ShadowRecord) -> tuple[float, float]:
    """Mean score of each answer over the graders. A grader that compares with the teacher's answer, and so has no score
    for it, takes that for right."""
    student = [each.student for each in shadow.grades if each.student is not None]
    teacher = [
        1.0 if each.teacher is None else each.teacher
        for each in shadow.grades
        if each.teacher is not None or (each.student is not None and each.grader.endswith("/teacher"))
    ]
    return _mean(student), _mean(teacher)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


@dataclass(frozen=True)
class Outcome:
    """One kind of outcome for both arms, and where it is observed at all."""

    student: Arm
    teacher: Arm
    strata: Strata
    supported: Flags
    """[n, 2]: the arm was observed for rows like this one."""
    observed: int
    """Rows with an observation that somebody made for the purpose: labels."""

    def arm(self, index: int) -> Arm:
        return self.student if index == 0 else self.teacher


def delivered_strata(columns: Columns) -> Strata:
    """Who answered, and whether after a draft."""
    strata = np.where(columns.route == STUDENT, 0, np.where(columns.has_draft, 2, 1))
    return strata.astype(np.int64)


def design_of(columns: Columns) -> Matrix:
    """What the outcome models look at: sizes, flags, the policies' scores, and what is known of the answer."""
    answered = columns.used_completion_tokens >= 0
    tokens = np.where(answered, np.log1p(np.maximum(columns.used_completion_tokens, 0)), np.nan)
    logprob = np.where(columns.has_draft, columns.draft_logprob, columns.answer_logprob)
    logprob = np.where((columns.route == STUDENT) | columns.has_draft, logprob, np.nan)
    first = np.cumsum(columns.scored_count) - columns.scored_count
    best = np.full(len(columns), np.nan)
    scored = columns.scored_count > 0
    best[scored] = columns.scores[first[scored]]
    return standardised(
        [
            np.log1p(columns.approx_prompt_tokens.astype(np.float64)),
            np.log1p(columns.message_count.astype(np.float64)),
            np.log1p(columns.requested_output_tokens.astype(np.float64)),
            columns.has_tools.astype(np.float64),
            columns.has_response_format.astype(np.float64),
            columns.stream.astype(np.float64),
            columns.effort.astype(np.float64),
            columns.reasoning_score,
            columns.retrieval_confidence,
            best,
            logprob,
            np.exp(logprob),
            tokens,
        ]
    )


def quality_of(columns: Columns, notes: Annotations, design: Matrix, *, use_feedback: bool) -> Outcome:
    """Grades of shadowed requests, or people's scores of what was delivered."""
    size = len(columns)
    y, weight = np.zeros((size, 2)), np.zeros((size, 2))
    strata = delivered_strata(columns)
    if use_feedback:
        rows = notes.feedback_rows[~columns.fell_back[notes.feedback_rows]]
        kept = ~columns.fell_back[notes.feedback_rows]
        arm = np.where(columns.route[rows] == TEACHER, 1, 0)
        explored = columns.propensity < 1.0
        strata = np.where(explored & ~columns.has_draft, EXPLORED, strata).astype(np.int64)
        y[rows, arm] = notes.feedback_score[kept]
        weight[rows, arm] = np.where(strata[rows] == EXPLORED, 1.0 / columns.propensity[rows], 1.0)
    else:
        for arm_index in (0, 1):
            graded = ~np.isnan(notes.quality[:, arm_index])
            rows = notes.rows[graded]
            y[rows, arm_index] = notes.quality[graded, arm_index]
            weight[rows, arm_index] = 1.0 / notes.propensity[graded]
    return _modelled(columns, y, weight, strata, design, bounded=True)


def cost_of(columns: Columns, notes: Annotations, design: Matrix) -> Outcome:
    """USD of either model's answer. The student's is that of its answer or its draft."""
    size = len(columns)
    y, weight = np.full((size, 2), np.nan), np.zeros((size, 2))
    is_student = columns.route == STUDENT
    y[is_student, 0] = columns.cost_usd[is_student]
    draft = np.where(columns.has_draft & ~is_student, columns.draft_cost_usd, 0.0)
    y[~is_student, 1] = (columns.cost_usd - draft)[~is_student]
    drafted = columns.has_draft & ~is_student
    y[drafted, 0] = columns.draft_cost_usd[drafted]
    weight[~np.isnan(y)] = 1.0
    strata = delivered_strata(columns)
    rows = notes.rows[notes.ok & ~np.isnan(notes.cost_usd)]
    if len(rows):
        kept = notes.ok & ~np.isnan(notes.cost_usd)
        arm = np.where(columns.route[rows] == STUDENT, 1, 0)
        fresh = weight[rows, arm] == 0
        y[rows[fresh], arm[fresh]] = notes.cost_usd[kept][fresh]
        weight[rows[fresh], arm[fresh]] = 1.0 / notes.propensity[kept][fresh]
    outcome = _modelled(columns, y, weight, strata, design, bounded=False)
    return _with_stated_prices(columns, outcome, y)


def _with_stated_prices(columns: Columns, outcome: Outcome, y: Floats) -> Outcome:
    """Fill in cells that nobody observed: the teacher's answer with the student's tokens at the teacher's price, the
    student's by its usual share of that."""
    student, teacher = outcome.student, outcome.teacher
    other = np.where(
        np.isnan(columns.counterfactual_cost_usd),
        np.nanmean(columns.counterfactual_cost_usd) if (~np.isnan(columns.counterfactual_cost_usd)).any() else np.nan,
        columns.counterfactual_cost_usd,
    )
    teacher_model = np.where(outcome.supported[:, 1], teacher.model, other)
    both = ~np.isnan(y[:, 0]) & ~np.isnan(columns.counterfactual_cost_usd) & (columns.route == STUDENT)
    base = float(columns.counterfactual_cost_usd[both].sum())
    ratio = float(y[both, 0].sum()) / base if base > 0 else float("nan")
    student_model = np.where(outcome.supported[:, 0], student.model, other * ratio)
    return Outcome(
        Arm(student.y, student.weight, student_model),
        Arm(teacher.y, teacher.weight, teacher_model),
        outcome.strata, outcome.supported, outcome.observed,
    )  # fmt: skip


def latency_of(columns: Columns, design: Matrix, draft_part: Floats) -> Outcome:
    """Seconds to the end of either model's answer, from records that it answered; a model tells the rest.

    Args:
        draft_part: [n], how much of the student's time passes before a draft is judged.
    """
    size = len(columns)
    strata = delivered_strata(columns)
    y, weight, model = np.zeros((size, 2)), np.zeros((size, 2)), np.zeros((size, 2))
    sound = ~columns.fell_back
    folds = folds_of(columns.ids)
    own = (columns.route == STUDENT) & sound
    model[:, 0] = cross_fitted(design, columns.latency_s, own.astype(np.float64), folds, bounded=False)
    teachers = (strata == 1) & sound
    model[:, 1] = cross_fitted(design, columns.latency_s, teachers.astype(np.float64), folds, bounded=False)
    y[own, 0], weight[own, 0] = columns.latency_s[own], 1.0
    y[teachers, 1], weight[teachers, 1] = columns.latency_s[teachers], 1.0
    drafted = (strata == 2) & sound
    waited = np.nan_to_num(draft_part * model[:, 0])
    y[drafted, 1] = np.maximum(columns.latency_s - waited, 0.0)[drafted]
    weight[drafted, 1] = 1.0
    if np.isnan(model[:, 1]).all():
        model[:, 1] = cross_fitted(design, y[:, 1], weight[:, 1], folds, bounded=False)
    supported = np.stack([_cells(weight[:, arm], strata) for arm in (0, 1)], axis=1)
    return Outcome(
        Arm(y[:, 0], weight[:, 0], model[:, 0]), Arm(y[:, 1], weight[:, 1], model[:, 1]), strata, supported, size
    )


def _modelled(columns: Columns, y: Floats, weight: Floats, strata: Strata, design: Matrix, *, bounded: bool) -> Outcome:
    """Fit a model in every cell of stratum and arm that has enough observations."""
    folds = folds_of(columns.ids)
    model = np.full(y.shape, np.nan)
    supported = np.zeros(y.shape, np.bool_)
    for arm in (0, 1):
        supported[:, arm] = _cells(weight[:, arm], strata)
        for stratum in range(STRATA):
            rows = np.flatnonzero(strata == stratum)
            if not len(rows) or not supported[rows[0], arm]:
                continue
            if (weight[rows, arm] == 1.0).all():  # every outcome is known
                model[rows, arm] = y[rows, arm]
                continue
            model[rows, arm] = cross_fitted(
                design[rows], np.nan_to_num(y[rows, arm]), weight[rows, arm], folds[rows], bounded=bounded
            )
    weight = np.where(supported, weight, 0.0)
    y = np.nan_to_num(y)
    labelled = int(((weight > 0).any(axis=1)).sum())
    arms = [Arm(y[:, arm], weight[:, arm], model[:, arm]) for arm in (0, 1)]
    return Outcome(arms[0], arms[1], strata, supported, labelled)


def _cells(weight: Floats, strata: Strata) -> Flags:
    """[n]: whether the arm was observed often enough in the stratum of each row."""
    counts = np.bincount(strata, weight > 0, minlength=STRATA)
    enough: Flags = counts[strata] >= np.minimum(MIN_LABELS, np.bincount(strata, minlength=STRATA)[strata])
    return enough
