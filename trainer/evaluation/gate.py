"""PASS, FAIL or INCONCLUSIVE, from measured figures. A pure function: the same figures, the same verdict.

- FAIL: something is shown to be worse than allowed: accuracy overall, a category, a general suite, a safety set.
- PASS: nothing is, and accuracy is shown to be within the margin, overall and in every category.
- INCONCLUSIVE: neither; it says how many more labels would decide.

Each test is one-sided at 1 - gate.confidence, for categories at its step of Holm's procedure; the bounds that are
reported are those of these tests, so that they and the verdict cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from policies.bundle import Verdict
from trainer.evaluation.figures import by_category
from trainer.evaluation.noninferiority import (
    holm,
    holm_levels,
    inferiority_p,
    lower_bound,
    missing_labels,
    non_inferiority_p,
)
from trainer.evaluation.statistics import Pairs, pairs
from trainer.recipe import GateOptions

Kind = Literal["overall", "category", "suite", "safety"]
Outcome = Literal["pass", "fail", "inconclusive", "not_tested"]
SCHEMA_VERSION = 2
MAX_UNANSWERED_SHARE = 0.05
"""Cases that the teacher may leave unanswered; with more, parity on the others says too little for a pass."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison on the same cases. Differences are student minus reference, in shares."""

    kind: Kind
    name: str
    reference: str
    n: int
    won: int
    lost: int
    difference: float
    low: float
    """One-sided bound at `low_level`: at least -margin exactly when the student is shown to be within the margin."""
    high: float
    """One-sided bound at `high_level`: below -margin exactly when the student is shown to be worse."""
    low_level: float
    """Error level of the test behind the bound; below 1 - confidence where Holm's step asks for more."""
    high_level: float
    margin: float
    p_non_inferior: float | None = None
    """Adjusted by Holm among the categories. Small = shown to be within the margin; None = not required."""
    p_inferior: float | None = None
    """Adjusted likewise. Small = shown to be worse than the margin."""
    outcome: Outcome
    missing_labels: int | None = None
    """More labels that would decide; only when inconclusive and such a number exists."""
    note: str = ""


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = SCHEMA_VERSION
    verdict: Verdict
    reasons: tuple[str, ...]
    """What stands against a pass; empty when it passes."""
    warnings: tuple[str, ...] = ()
    missing_labels: int | None = None
    """Labels that would decide the overall test; None when it is decided, or no number would."""
    missing_labels_by_category: dict[str, int | None] = {}
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class _Comparison:
    """What is compared with what; `margin` 1 = nothing is asked of it."""

    kind: Kind
    name: str
    reference: str
    counts: Pairs
    margin: float


def decide(
    categories: Sequence[str],
    student: Sequence[bool],
    teacher: Sequence[bool | None],
    evaluation: Mapping[str, Any],
    options: GateOptions,
) -> GateResult:
    """Judge one evaluation.

    Args:
        categories, student, teacher: of each case, in one order: its (pooled) category and who was right. None where
            the teacher gave no answer: such a case would count for the student, so it is not compared.
        evaluation: evaluation.json, for `suites` and `safety`.
    Raises:
        ValueError: no case that the teacher answered.
    """
    compared = [
        (category, mine, theirs)
        for category, mine, theirs in zip(categories, student, teacher, strict=True)
        if theirs is not None
    ]
    if not compared:
        raise ValueError("the teacher answered no case")
    unanswered = len(categories) - len(compared)
    names, mine, theirs = (list(column) for column in zip(*compared, strict=True))
    large: list[_Comparison] = []
    small: list[_Comparison] = []
    for name, counts in by_category(names, mine, theirs).items():
        members = large if counts.n >= options.min_category_cases else small
        members.append(_Comparison("category", name, "teacher", counts, options.category_margin))
    whole = _Comparison("overall", "overall", "teacher", pairs(mine, theirs), options.margin)
    overall, by_name = _required([whole], options), _required(large, options)
    suites, unknown_suites = _suites(evaluation, options)
    safety, unknown_safety = _safety(evaluation, options)
    guards = [_guard(each, options) for each in (*suites, *safety)]
    checks = (*overall, *by_name, *(_check(each, options, "not_tested") for each in small), *guards)
    doubts = _doubts((*overall, *by_name), unanswered, len(categories))
    verdict = _verdict(checks)
    if doubts and verdict == "pass":
        verdict = "inconclusive"
    blind = _blind(guards) if verdict == "pass" else []
    return GateResult(
        verdict=verdict,
        reasons=(*(_reason(check) for check in checks if check.outcome in ("fail", "inconclusive")), *doubts),
        warnings=(*(check.note for check in guards if check.note), *unknown_suites, *unknown_safety, *blind),
        missing_labels=overall[0].missing_labels,
        missing_labels_by_category={
            check.name: check.missing_labels for check in by_name if check.outcome == "inconclusive"
        },
        checks=checks,
    )


def _blind(guards: Sequence[Check]) -> list[str]:
    """A warning for each kind of guard that nothing was tested by: a pass without it says less than it seems to."""
    tested = {check.kind for check in guards if check.outcome != "not_tested"}
    found = []
    if "safety" not in tested:
        found.append(
            "no safety set was compared: this pass says nothing about refusals, jailbreaks and bias; set "
            "evaluate.safety = true"
        )
    if "suite" not in tested:
        found.append(
            "no general suite was compared: this pass says nothing about what the student was able to do beside its "
            "task; set evaluate.general_cases above 0 and gate.max_general_drop below 1"
        )
    return found


def _verdict(checks: Sequence[Check]) -> Verdict:
    outcomes = {check.outcome for check in checks}
    if "fail" in outcomes:
        return "fail"
    return "inconclusive" if "inconclusive" in outcomes else "pass"


def _doubts(required: Sequence[Check], unanswered: int, cases: int) -> list[str]:
    """What stands against a pass although no check does."""
    found = []
    if all(check.outcome == "not_tested" for check in required):
        found.append("accuracy: nothing was tested; set gate.margin or gate.category_margin below 1")
    if unanswered > MAX_UNANSWERED_SHARE * cases:
        found.append(
            f"accuracy: the teacher left {unanswered} of {cases} cases without an answer (refused or empty), more than "
            f"{MAX_UNANSWERED_SHARE:.0%}; they are not compared. See teacher_text in cases.parquet; a teacher that "
            "thinks first needs a larger evaluate.max_output_tokens"
        )
    return found


def _required(family: Sequence[_Comparison], options: GateOptions) -> list[Check]:
    """Each must be shown to be within the margin; Holm keeps the error of all of them together at the level."""
    asked = [each for each in family if each.margin < 1]
    level = 1 - options.confidence
    p_within = {each.name: non_inferiority_p(each.counts, each.margin) for each in asked}
    p_worse = {each.name: inferiority_p(each.counts, each.margin) for each in asked}
    within, worse = holm(p_within), holm(p_worse)
    low_levels, high_levels = holm_levels(p_within, level), holm_levels(p_worse, level)
    checks = []
    for each in family:
        if each.margin >= 1:
            checks.append(_check(each, options, "not_tested"))
            continue
        outcome: Outcome = "inconclusive"
        missing = None
        if worse[each.name] <= level:
            outcome = "fail"
        elif within[each.name] <= level:
            outcome = "pass"
        else:
            missing = missing_labels(each.counts, each.margin, options.confidence, comparisons=len(asked))
        checks.append(
            _check(
                each,
                options,
                outcome,
                p_non_inferior=within[each.name],
                p_inferior=worse[each.name],
                levels=(low_levels[each.name], high_levels[each.name]),
                missing=missing,
            )
        )
    return checks


def _suites(evaluation: Mapping[str, Any], options: GateOptions) -> tuple[list[_Comparison], list[str]]:
    margin = 1.0 if options.max_general_drop is None else options.max_general_drop
    return _paired(
        ("suite", name, suite["reference"], suite["student"], suite["outcomes"], margin)
        for name, suite in evaluation.get("suites", {}).items()
        if suite["outcomes"] is not None
    )


def _safety(evaluation: Mapping[str, Any], options: GateOptions) -> tuple[list[_Comparison], list[str]]:
    return _paired(
        ("safety", name, reference, outcomes["student"], outcomes[reference], options.max_safety_drop)
        for name, outcomes in evaluation.get("safety", {}).items()
        for reference in ("teacher", "previous")
        if "student" in outcomes and reference in outcomes
    )


def _paired(
    sets: Iterable[tuple[Kind, str, str, Mapping[str, bool], Mapping[str, bool], float]],
) -> tuple[list[_Comparison], list[str]]:
    """The comparisons on the cases that both have an outcome for, and a warning for each set without such a case."""
    found: list[_Comparison] = []
    warnings = []
    for kind, name, reference, student, outcomes, margin in sets:
        if common := [case for case in student if case in outcomes]:
            counts = pairs([student[case] for case in common], [outcomes[case] for case in common])
            found.append(_Comparison(kind, name, reference, counts, margin))
        else:
            warnings.append(f"{kind} {name}: no case that the {reference} answered; not compared")
    return found, warnings


def _guard(each: _Comparison, options: GateOptions) -> Check:
    """These sets are of fixed size, so only a loss that is shown fails; a larger one that may be chance is a note."""
    if each.margin >= 1:
        return _check(each, options, "not_tested")
    p_worse = inferiority_p(each.counts, each.margin)
    failed = p_worse <= 1 - options.confidence
    note = ""
    if not failed and each.counts.difference < -each.margin:
        note = (
            f"{each.kind} {each.name}: {-each.counts.difference:.1%} below the {each.reference} on {each.counts.n} "
            f"cases, more than the {each.margin:.1%} allowed; it may be chance (p = {p_worse:.3f})"
        )
    return _check(each, options, "fail" if failed else "pass", p_inferior=p_worse, note=note)


def _check(
    each: _Comparison,
    options: GateOptions,
    outcome: Outcome,
    *,
    p_non_inferior: float | None = None,
    p_inferior: float | None = None,
    levels: tuple[float, float] | None = None,
    missing: int | None = None,
    note: str = "",
) -> Check:
    level = 1 - options.confidence
    low_level, high_level = levels or (level, level)
    low, high = lower_bound(each.counts, low_level), -lower_bound(each.counts.mirrored, high_level)
    # What a test says at the margin itself holds for its bound: exact p-values need not be monotone on the way to it.
    if p_non_inferior is not None:
        low = max(low, -each.margin) if p_non_inferior <= level else min(low, -each.margin)
    if p_inferior is not None:
        high = min(high, -each.margin) if p_inferior <= level else max(high, -each.margin)
    return Check(
        kind=each.kind,
        name=each.name,
        reference=each.reference,
        n=each.counts.n,
        won=each.counts.won,
        lost=each.counts.lost,
        difference=round(each.counts.difference, 6),
        low=round(low, 6),
        high=round(high, 6),
        low_level=low_level,
        high_level=high_level,
        margin=each.margin,
        p_non_inferior=p_non_inferior,
        p_inferior=p_inferior,
        outcome=outcome,
        missing_labels=missing,
        note=note,
    )


def _reason(check: Check) -> str:
    what = {"overall": "accuracy", "category": f"category {check.name}"}.get(check.kind, f"{check.kind} {check.name}")
    bounds = f"(one-sided bounds {check.low:+.2%} and {check.high:+.2%})"
    against = f"{check.difference:+.1%} against the {check.reference} {bounds}, n = {check.n}"
    if check.outcome == "fail":
        return f"{what}: {against}: worse than the {check.margin:.1%} allowed (p = {check.p_inferior:.4f})"
    if check.missing_labels is None:
        need = "no number of labels would decide: the difference is at the margin"
    else:
        need = f"about {check.missing_labels:,} more labels would decide"
    return f"{what}: {against}: neither within {check.margin:.1%} nor shown to be worse; {need}"
