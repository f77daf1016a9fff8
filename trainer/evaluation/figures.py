"""From answers to figures: what evaluation.json and the report say. Pure functions; no model is asked here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from policies.grading import Grader, is_right, normal
from trainer.evaluation import statistics
from trainer.evaluation.dataset import Case
from trainer.evaluation.endpoint import Answer
from trainer.evaluation.statistics import Interval, Pairs
from trainer.stage import Json

MAX_LABEL_SHARE = 0.5
"""A set with more different labels than this share of its cases has no closed set of labels."""
ROUNDING = 6


def graded(cases: Sequence[Case], answers: Mapping[str, Answer], grader: Grader) -> list[bool]:
    """Right or wrong, in the order of the cases."""
    return [is_right(answers[case.id].text, case.label, grader) for case in cases]


def interval_json(interval: Interval) -> dict[str, Json]:
    return {name: round(value, ROUNDING) for name, value in asdict(interval).items()}


def accuracy(right: Sequence[bool], confidence: float) -> dict[str, Json]:
    return {
        "n": len(right),
        "right": sum(right),
        **interval_json(statistics.wilson_interval(sum(right), len(right), confidence)),
    }


def parity(student: Sequence[bool], reference: Sequence[bool], confidence: float) -> dict[str, Json]:
    """The paired difference, by score and by bootstrap."""
    observed = statistics.pairs(student, reference)
    return {
        "n": observed.n,
        "won": observed.won,
        "lost": observed.lost,
        **interval_json(statistics.difference_interval(observed, confidence)),
        "bootstrap": interval_json(
            statistics.paired_bootstrap(
                np.asarray(student, dtype=float), np.asarray(reference, dtype=float), confidence=confidence
            )
        ),
    }


def agreement(student: Mapping[str, Answer], teacher: Mapping[str, Answer]) -> float:
    """Share of cases on which both say the same, case and spacing aside."""
    same = [normal(student[name].text or "") == normal(teacher[name].text or "") for name in student]
    return sum(same) / len(same)


def calibration(right: Sequence[bool], answers: Sequence[Answer]) -> dict[str, Json]:
    """How well exp(mean logprob) states the chance to be right, and how well it finds the errors."""
    usable = [
        (each.mean_logprob, outcome)
        for each, outcome in zip(answers, right, strict=True)
        if each.mean_logprob is not None
    ]
    if not usable:
        return {"n": 0, "skipped": "the endpoint gives no logprobs"}
    means = np.array([mean for mean, _ in usable])
    outcomes = np.array([outcome for _, outcome in usable])
    bins = statistics.reliability_bins(np.exp(np.minimum(means, 0.0)), outcomes)
    ranked = statistics.auroc(-means, ~outcomes)
    return {
        "n": len(usable),
        "ece": round(statistics.calibration_error(bins), ROUNDING),
        "error_auroc": None if ranked is None else round(ranked, ROUNDING),
        "reliability": [{name: round(value, ROUNDING) for name, value in asdict(each).items()} for each in bins],
    }


def task_labels(cases: Sequence[Case]) -> frozenset[str]:
    """The closed set of labels, normalised; empty when the answers are free."""
    labels = {normal(case.label) for case in cases}
    return frozenset(labels) if len(labels) <= max(2, MAX_LABEL_SHARE * len(cases)) else frozenset()


def format_drift(
    student: Mapping[str, Answer], reference: Mapping[str, Answer], labels: frozenset[str]
) -> dict[str, Json]:
    """Whether the student writes longer, is cut more often, or leaves the task's labels."""
    return {
        "length_ratio": _ratio(_mean_length(student), _mean_length(reference)),
        "truncated_share": _share(student, lambda each: each.finish_reason == "length"),
        "reference_truncated_share": _share(reference, lambda each: each.finish_reason == "length"),
        "empty_share": _share(student, lambda each: not (each.text or "").strip()),
        "outside_labels_share": _share(student, lambda each: normal(each.text or "") not in labels) if labels else None,
        "reference_outside_labels_share": _share(reference, lambda each: normal(each.text or "") not in labels)
        if labels
        else None,
    }


def _mean_length(answers: Mapping[str, Answer]) -> float:
    return sum(len(each.text or "") for each in answers.values()) / len(answers)


def _ratio(value: float, reference: float) -> float | None:
    return round(value / reference, ROUNDING) if reference else None


def _share(answers: Mapping[str, Answer], condition: Any) -> float:
    return round(sum(bool(condition(each)) for each in answers.values()) / len(answers), ROUNDING)


def pooled_categories(categories: Sequence[str], min_cases: int) -> list[str]:
    """The category that each case counts for; those with fewer cases are pooled into `other`."""
    sizes = Counter(categories)
    return [each if sizes[each] >= min_cases else "other" for each in categories]


def by_category(categories: Sequence[str], student: Sequence[bool], reference: Sequence[bool]) -> dict[str, Pairs]:
    members: dict[str, tuple[list[bool], list[bool]]] = {}
    for category, mine, theirs in zip(categories, student, reference, strict=True):
        both = members.setdefault(category, ([], []))
        both[0].append(mine)
        both[1].append(theirs)
    return {name: statistics.pairs(*both) for name, both in sorted(members.items())}


def unsure_below(answers: Sequence[Answer], share: float) -> float | None:
    """The mean logprob below which `share` of the answers to the task lie: what a cascade would escalate."""
    means = [each.mean_logprob for each in answers if each.mean_logprob is not None]
    if len(means) < max(1, len(answers) // 2):
        return None
    value = float(np.quantile(np.array(means), share))
    return value if math.isfinite(value) else None
