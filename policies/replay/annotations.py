"""Shadows and feedback, joined to the rows of the columns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.quality.estimates import counted
from policies.record import FeedbackRecord, ShadowRecord
from policies.replay.columns import UNKNOWN, Codes, Columns, Flags, Floats, Ints
from policies.replay.extract import finish_code, id_of

AGAINST_TEACHER = "/teacher"
"""End of the name of a grader that compares with the teacher's answer, and so has no score for it."""


@dataclass(frozen=True)
class Annotations:
    """What is known about some rows beside their records."""

    rows: Ints
    """Of the columns; one for each shadow, as are the next ones."""
    propensity: Floats
    ok: Flags
    """The other model has answered."""
    cost_usd: Floats
    logprob: Floats
    finish: Codes
    tokens: Ints
    quality: Floats
    """[m, 2]: score of the student's and of the teacher's answer; NaN: none."""
    feedback_rows: Ints
    feedback_score: Floats
    drawn: Counter[str]
    """Shadows by status."""
    against_teacher: int
    """Grades that say how far the student agrees with the teacher, not how good it is."""

    @property
    def graded(self) -> int:
        return int((~np.isnan(self.quality)).any(axis=1).sum())


def annotations_of(
    columns: Columns, shadows: Iterable[ShadowRecord], feedback: Iterable[FeedbackRecord]
) -> Annotations:
    """Join. The newest of a request counts, and feedback only of the record's own tenant, as in
    policies/quality/judgements.py."""
    newest: dict[int, ShadowRecord] = {}
    ordered = sorted(shadows, key=lambda each: each.created_s)
    for row, shadow in zip(_rows_of(columns, ordered).tolist(), ordered, strict=True):
        if row != UNKNOWN:
            newest[row] = shadow
    scored: dict[int, float] = {}
    given = sorted((each for each in feedback if each.score is not None), key=lambda each: each.created_s)
    for row, each in zip(_rows_of(columns, given).tolist(), given, strict=True):
        if row != UNKNOWN and each.score is not None and columns.names[columns.tenant[row]] == each.tenant:
            scored[row] = each.score
    drawn = list(newest.values())
    grades = [counted(shadow.grades) for shadow in drawn]
    against = [
        grade is not None and grade.teacher is None and grade.grader.endswith(AGAINST_TEACHER) for grade in grades
    ]
    quality = [
        (_number(grade.student), 1.0 if alone else _number(grade.teacher))
        if grade is not None
        else (math.nan, math.nan)
        for grade, alone in zip(grades, against, strict=True)
    ]
    return Annotations(
        rows=np.array(list(newest), np.int64),
        propensity=np.array([each.propensity for each in drawn], np.float64),
        ok=np.array([each.status == "ok" for each in drawn], np.bool_),
        cost_usd=np.array([_number(each.cost_usd) for each in drawn], np.float64),
        logprob=np.array([_number(each.mean_logprob) for each in drawn], np.float64),
        finish=np.array([finish_code(each.finish_reason) for each in drawn], np.int32),
        tokens=np.array([each.usage.completion_tokens if each.usage else UNKNOWN for each in drawn], np.int64),
        quality=np.array(quality, np.float64).reshape(len(drawn), 2),
        feedback_rows=np.array(list(scored), np.int64),
        feedback_score=np.array(list(scored.values()), np.float64),
        drawn=Counter(each.status for each in drawn),
        against_teacher=sum(against),
    )


def _rows_of(columns: Columns, records: list[ShadowRecord] | list[FeedbackRecord]) -> NDArray[np.int64]:
    """The row of each record's request; UNKNOWN where it is none of these."""
    wanted = np.array([id_of(each.decision_id) for each in records], np.int64)
    if not len(columns) or not len(wanted):
        return np.full(len(wanted), UNKNOWN, np.int64)
    order = np.argsort(columns.ids, kind="stable")
    places = np.minimum(np.searchsorted(columns.ids, wanted, sorter=order), len(order) - 1)
    rows = order[places]
    return np.where(columns.ids[rows] == wanted, rows, UNKNOWN)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
