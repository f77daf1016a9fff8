"""Grades by a label, also when it came after the answers were graded.

People label an answer hours after it was given, and by then its shadow has been compared with the teacher's answer, or,
where only a label tells, not at all. The texts are in the log, so whoever reads it can compare them with the label.
"""

from __future__ import annotations

from typing import get_args

from msgspec.structs import replace

from policies.grading import NUMERIC_TOLERANCE, Grader, is_right
from policies.record import DecisionRecord, Grade, ShadowRecord

KINDS: tuple[Grader, ...] = get_args(Grader)
BY_LABEL, BY_TEACHER = "label", "teacher"
"""Against what a grader compares: what follows the slash in its name."""


def comparison(name: str, kind: Grader, tolerance: float, against: str) -> Grade:
    """The grade of a comparison, still without scores. It tells all that is needed to make it again.

    Args:
        name: of the grader, without what it compares with.
        against: BY_LABEL or BY_TEACHER.
    """
    return Grade(
        grader=f"{name}/{against}",
        compares=None if name == kind else kind,
        tolerance=None if tolerance == NUMERIC_TOLERANCE else tolerance,
    )


def scored(grade: Grade, student: str, teacher: str, label: str) -> Grade:
    """A comparison of both answers with a label. Grades that are no comparison of texts stay as they are."""
    name, _, against = grade.grader.rpartition("/")
    kind = grade.compares or next((each for each in KINDS if each == name), None)
    if kind is None or against not in (BY_LABEL, BY_TEACHER):
        return grade
    tolerance = NUMERIC_TOLERANCE if grade.tolerance is None else grade.tolerance
    scores = [float(is_right(answer, label, kind, tolerance=tolerance)) for answer in (student, teacher)]
    return replace(grade, grader=f"{name}/{BY_LABEL}", student=scores[0], teacher=scores[1])


def with_label(shadow: ShadowRecord, record: DecisionRecord, label: str) -> ShadowRecord:
    """The shadow of a record, graded by a label of its request."""
    if shadow.status != "ok" or shadow.completion is None:
        return shadow
    answers = (record.completion or "", shadow.completion)
    student, teacher = answers if shadow.delivered == "student" else answers[::-1]
    return replace(shadow, grades=tuple(scored(grade, student, teacher, label) for grade in shadow.grades))
