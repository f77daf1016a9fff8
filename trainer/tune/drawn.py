"""Rows from shadow answers: requests that were drawn with a known probability, with the answers of both models.

Where somebody has labelled the request, the label grades both answers. Else their grades count, and where these compare
with the teacher's answer (`exact/teacher`), equal answers have no difference whatever the truth is, and of different
ones the student's is taken for the wrong one: an upper bound of the loss. So it takes labels only where the answers
differ, and each of them makes the bound tighter.
"""

from __future__ import annotations

import math
from pathlib import Path

from policies.drafts.validity import is_empty
from policies.grading import is_right
from policies.quality.estimates import counted
from policies.record import DecisionRecord, Grade, ShadowRecord
from policies.traffic.reader import shadows
from trainer.tune.rows import Grading, Row
from trainer.tune.traffic import Score

AGREEMENT = "/teacher"
"""End of a grader's name that compares with the teacher's answer."""


def graded_shadows(folder: Path) -> dict[str, ShadowRecord]:
    """Shadow answers with a grade of both, by the request; the last one counts."""
    found: dict[str, ShadowRecord] = {}
    for shadow in shadows(folder):
        grade = counted(shadow.grades) if shadow.status == "ok" else None
        if grade is not None and grade.student is not None and grade.teacher is not None:
            found[shadow.decision_id] = shadow
    return found


def drawn_row(
    record: DecisionRecord, shadow: ShadowRecord, label: str | None, score: Score, grading: Grading
) -> Row | None:
    """None where the score is not known."""
    logprob = logprob_of(record)
    if logprob is None and shadow.asked == "student":
        logprob = shadow.mean_logprob
    found = score.of(record, logprob)
    grade = counted(shadow.grades)
    if found is None or grade is None or grade.student is None:
        return None
    by_label = _by_label(record, shadow, label, grading)
    stated = shadow.backend_fingerprint if shadow.asked == "teacher" else record.backend_fingerprint
    student, teacher = by_label or (grade.student, grade.teacher)
    return Row(
        record.decision_id,
        shadow.student,
        record.decision_id,
        math.nan if logprob is None else logprob,
        student >= grading.min_score,
        teacher=teacher,
        graded=student,
        score=found,
        tag=score.tag_of(record),
        weight=1.0 / shadow.propensity,
        created_s=record.created_s,
        fingerprints=frozenset() if stated is None else frozenset({stated}),
        escalated=record.route == "teacher",
        assumed_wrong=by_label is None and _differs_from_teacher(grade),
    )


def _by_label(
    record: DecisionRecord, shadow: ShadowRecord, label: str | None, grading: Grading
) -> tuple[float, float] | None:
    """Outcomes of student and teacher."""
    if label is None or record.completion is None or shadow.completion is None:
        return None
    texts = (record.completion, shadow.completion)
    student, teacher = texts if shadow.asked == "teacher" else reversed(texts)
    return float(is_right(student, label, grading.grader)), float(is_right(teacher, label, grading.grader))


def _differs_from_teacher(grade: Grade) -> bool:
    agreement = grade.grader.endswith(AGREEMENT)
    return agreement and grade.student is not None and grade.teacher is not None and grade.student < grade.teacher


def logprob_of(record: DecisionRecord) -> float | None:
    """Of the student's answer; NaN for an empty one and one that failed a validity check, which a cascade escalates
    whatever its threshold; None where there should be one and is none."""
    if record.draft is not None:
        if record.draft.signals is not None and record.draft.signals.failed:
            return math.nan
        text, finish_reason, logprob = record.draft.text, record.draft.finish_reason, record.draft.mean_logprob
    elif record.route == "student":
        text, finish_reason, logprob = record.completion, record.finish_reason, record.mean_logprob
    else:
        return None
    if is_empty(text, finish_reason):
        return math.nan
    return logprob if logprob is not None and math.isfinite(logprob) else None
