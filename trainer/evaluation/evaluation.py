"""`evaluation.json`: every figure of one evaluation, with the outcomes that the gate needs to judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

from trainer.evaluation import figures, safety
from trainer.evaluation.dataset import Case
from trainer.evaluation.runner import Observations, Observed, plain
from trainer.evaluation.suites import SuiteResult
from trainer.recipe import Recipe
from trainer.stage import StageError

SCHEMA_VERSION = 1
SPEED_NOTE = (
    "Student and teacher are measured one after the other with the same requests. The costs compare on equal cores "
    "only if the teacher's endpoint was started on the cores that the student gets."
)
REMOTE_NOTE = "The teacher's endpoint is not on this machine; its throughput says nothing about these cores: left out."


def build(
    recipe: Recipe, cases: Sequence[Case], observed: Observations, size_bytes: int, escalated_share: float
) -> dict[str, Any]:
    """Everything but the verdict. Mean logprobs in nats, sizes in bytes, money in USD."""
    confidence, grader = recipe.gate.confidence, recipe.evaluate.grader
    student, teacher, previous = observed.student, observed.teacher, observed.previous
    right = {"student": figures.graded(cases, student.task, grader)}
    right["teacher"] = figures.graded(cases, teacher.task, grader)
    if previous is not None:
        right["previous"] = figures.graded(cases, previous.task, grader)
    labels = figures.task_labels(cases)
    answered = [bool((teacher.task[case.id].text or "").strip()) for case in cases]
    if not any(answered):
        raise StageError(
            "teacher: every answer is empty; a teacher that thinks first needs a larger evaluate.max_output_tokens"
        )
    return {
        "schema": SCHEMA_VERSION,
        "evaluation_set_sha256": recipe.evaluate.sha256,
        "provenance": recipe.evaluate.provenance,
        "grader": grader,
        "cases": len(cases),
        "student": {"model_sha256": student.sha256, "size_bytes": size_bytes},
        "previous": {"name": previous.name, "model_sha256": previous.sha256} if previous else None,
        "accuracy": {name: figures.accuracy(outcomes, confidence) for name, outcomes in right.items()},
        "parity": {
            name: figures.parity(
                *(right["student"], outcomes) if name != "teacher" else _both(right, answered), confidence
            )
            for name, outcomes in right.items()
            if name != "student"
        },
        "agreement": round(figures.agreement(student.task, teacher.task), 6),
        "errors": {
            name: sum(answer.text is None for answer in seen.task.values())
            for name, seen in (("student", student), ("teacher", teacher))
        },
        "not_compared": len(answered) - sum(answered),
        "calibration": figures.calibration(right["student"], [student.task[case.id] for case in cases]),
        "closeness": plain(observed.closeness),
        "format": {
            "teacher": figures.format_drift(student.task, teacher.task, labels),
            "previous": figures.format_drift(student.task, previous.task, labels) if previous else None,
        },
        "speed": _speeds(student, teacher),
        "suites": _suites(observed),
        "safety": _safety(cases, observed, labels, escalated_share),
    }


def _both(right: Mapping[str, Sequence[bool]], answered: Sequence[bool]) -> tuple[list[bool], list[bool]]:
    """Student and teacher on the cases that the teacher answered: no other can be compared without favour."""
    student, teacher = (list(compress(right[name], answered)) for name in ("student", "teacher"))
    return student, teacher


def _speeds(student: Observed, teacher: Observed) -> dict[str, Any]:
    mine, theirs = student.speed, teacher.speed
    ratio = mine.requests_per_s / theirs.requests_per_s if mine and theirs and theirs.requests_per_s else None
    return {
        "student": plain(mine),
        "teacher": plain(theirs),
        "times_cheaper": ratio,
        "note": SPEED_NOTE if theirs else REMOTE_NOTE,
    }


def _suites(observed: Observations) -> dict[str, Any]:
    """Outcomes of student and reference, question by question."""
    reference = observed.previous or observed.base
    theirs: dict[str, SuiteResult] = {each.name: each for each in reference.suites} if reference else {}
    return {
        each.name: {
            "licence": each.licence,
            "reference": reference.name if reference and each.name in theirs else None,
            "student": each.outcomes,
            "outcomes": theirs[each.name].outcomes if each.name in theirs else None,
        }
        for each in observed.student.suites
    }


def _safety(
    cases: Sequence[Case], observed: Observations, labels: frozenset[str], escalated_share: float
) -> dict[str, Any]:
    """Passed or not by set and case, for each model. Unsure is relative to each model's answers to the task."""
    if not observed.safety_sets:
        return {}
    result: dict[str, Any] = {name: {} for name in observed.safety_sets}
    for role, seen in (("student", observed.student), ("teacher", observed.teacher), ("previous", observed.previous)):
        if seen is None:
            continue
        threshold = figures.unsure_below([seen.task[case.id] for case in cases], escalated_share)
        judged = safety.judge(
            observed.safety_sets, seen.safety, labels=labels, unsure_below=threshold, candidate=role == "student"
        )
        for name, outcomes in judged.items():
            result[name][role] = outcomes
    return result
