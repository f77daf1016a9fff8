"""The figures of a run, with paired 95 % intervals over the test cases."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from trainer.claim.client import Answered
from trainer.claim.data import Case, is_right
from trainer.claim.settings import MACHINE_USD_PER_CORE_HOUR, TEACHER_USD_PER_1M_INPUT, TEACHER_USD_PER_1M_OUTPUT
from trainer.claim.steps import Result
from trainer.evaluation.statistics import Interval, auroc, paired_bootstrap

TARGET_GAP = 0.04
TARGET_LEFT = 0.006
TARGET_SHARE = 0.20
TARGET_RATIO = 4.0
COST_FACTOR = 5.0

Answers = Mapping[str, Answered]


def right(cases: Sequence[Case], answers: Answers) -> list[bool]:
    """Case by case, whether the answer is the label."""
    return [is_right(case, answers[case.id].text) for case in cases]


def teacher_price(answer: Answered) -> float:
    """USD at the stated API price."""
    return (
        answer.prompt_tokens * TEACHER_USD_PER_1M_INPUT + answer.completion_tokens * TEACHER_USD_PER_1M_OUTPUT
    ) / 1e6


@dataclass(frozen=True)
class Escalation:
    """How much went to the teacher."""

    calls: float
    tokens: float
    """Share of the tokens that all-teacher would have used, prompt and completion."""
    price: float
    """q': share of what all-teacher would have cost at the stated price."""


def escalation(cases: Sequence[Case], routed: Answers, teacher: Answers) -> Escalation:
    """Shares of calls, of tokens and of teacher-priced tokens that the routed run sent to the teacher."""
    sent = [case.id for case in cases if routed[case.id].route == "teacher"]
    everything = [teacher[case.id] for case in cases]
    return Escalation(
        calls=len(sent) / len(cases),
        tokens=sum(_tokens(routed[i]) for i in sent) / sum(map(_tokens, everything)),
        price=sum(teacher_price(routed[i]) for i in sent) / sum(map(teacher_price, everything)),
    )


def _tokens(answer: Answered) -> int:
    return answer.prompt_tokens + answer.completion_tokens


def costs(q: float, speed: Result, teacher_usd_per_request: float) -> dict[str, Result]:
    """DESIGN's two numbers, never mixed, for a cascade: q' + r.

    measured: both models priced by the same machine-hour, r = student's machine time / teacher's.
    list_price: the teacher at the stated API price, the student at its measured machine time.
    """
    student_usd = 1 / speed["student_requests_per_s"] * speed["cores"] * MACHINE_USD_PER_CORE_HOUR / 3600
    return {
        "measured": _cost(q, 1 / speed["student_times_faster"]["teacher"]),
        "list_price": _cost(q, student_usd / teacher_usd_per_request)
        | {
            "teacher_usd_per_1000_requests": 1000 * teacher_usd_per_request,
            "student_usd_per_1000_requests": 1000 * student_usd,
        },
    }


def _cost(q: float, r: float) -> Result:
    return {"q": q, "r": r, "relative_cost": q + r, "cheaper": 1 / (q + r), "q_for_5x": max(0.0, 1 / COST_FACTOR - r)}


def depth_cost(speed: Result, student_layers: int, teacher_layers: int) -> Result | None:
    """Machine time of a request, split into what grows with the depth and what does not.

    A line through two models that differ in their depth alone: the student and the teacher quantized in the same way.

    Returns:
        `ms_per_layer`, `fixed_ms` and `ratio_without_layers`: how much faster than the teacher even a student without
        any layer would be. None: the quantized teacher was not measured.
    """
    quantized = speed.get("teacher_quantized_requests_per_s")
    if quantized is None or student_layers >= teacher_layers:
        return None
    student_ms, quantized_ms = 1000 / speed["student_requests_per_s"], 1000 / quantized
    per_layer_ms = (quantized_ms - student_ms) / (teacher_layers - student_layers)
    fixed_ms = student_ms - student_layers * per_layer_ms
    return {
        "ms_per_layer": per_layer_ms,
        "fixed_ms": fixed_ms,
        "ratio_without_layers": 1000 / speed["teacher_requests_per_s"] / fixed_ms if fixed_ms > 0 else None,
    }


def routing(cases: Sequence[Case], student: Answers, teacher: Answers, routed: Answers) -> Result:
    """The heart of the claim: accuracies, the gap, what is left of it, what was escalated, the blind routers."""
    s, t, r = (right(cases, each) for each in (student, teacher, routed))
    zeros = [False] * len(cases)
    sent = escalation(cases, routed, teacher)
    random_expected = [(1 - sent.calls) * a + sent.calls * b for a, b in zip(s, t, strict=True)]
    return {
        "n": len(cases),
        "accuracy": {
            "teacher": _interval(paired_bootstrap(t, zeros)),
            "student": _interval(paired_bootstrap(s, zeros)),
            "routed": _interval(paired_bootstrap(r, zeros)),
        },
        "gap": _interval(paired_bootstrap(t, s)),
        "left": _interval(paired_bootstrap(t, r)),
        "escalated": asdict(sent),
        "reasons": _counted([routed[case.id].reason for case in cases]),
        "random_routing": _interval(paired_bootstrap(random_expected, zeros)),
        "length_routing": _interval(paired_bootstrap(by_length(cases, s, t, sent.calls), zeros)),
        "routed_minus_random": _interval(paired_bootstrap(r, random_expected)),
    }


def by_length(cases: Sequence[Case], student: Sequence[bool], teacher: Sequence[bool], share: float) -> list[bool]:
    """The longest requests, as many as this share, go to the teacher; ties are broken by a fixed shuffle."""
    order = list(range(len(cases)))
    random.Random(0).shuffle(order)  # noqa: S311 - reproducible, no secret
    order.sort(key=lambda i: -len(cases[i].text))
    sent = set(order[: round(share * len(cases))])
    return [teacher[i] if i in sent else student[i] for i in range(len(cases))]


def variant(cases: Sequence[Case], answers: Answers, teacher: Answers) -> Result:
    """One compared model: its accuracy, agreement with the teacher, and how well its mean logprob tells its errors."""
    outcome = right(cases, answers)
    logprobs = [answers[case.id].mean_logprob for case in cases]
    told = [(-value, not ok) for value, ok in zip(logprobs, outcome, strict=True) if value is not None]
    return {
        "accuracy": _interval(paired_bootstrap(outcome, [False] * len(cases))),
        "agreement": sum(answers[c.id].text.strip() == teacher[c.id].text.strip() for c in cases) / len(cases),
        "error_auroc": auroc([value for value, _ in told], [wrong for _, wrong in told]) if told else None,
    }


def targets(figures: Result) -> dict[str, Result]:
    """Each part of the target by point estimate, met or not."""
    main, speed = figures["routing"], figures["speed"]
    ratio = speed["student_times_faster"]["teacher"]
    return {
        "gap of at least 4 points": _judged(main["gap"]["estimate"], main["gap"]["estimate"] >= TARGET_GAP),
        "at most 0.6 points left": _judged(main["left"]["estimate"], main["left"]["estimate"] <= TARGET_LEFT),
        "at most 20 % escalated": _judged(main["escalated"]["calls"], main["escalated"]["calls"] <= TARGET_SHARE),
        "student at least 4x cheaper on equal cores": _judged(ratio, ratio >= TARGET_RATIO),
    }


def _judged(value: float, met: bool) -> Result:
    return {"value": value, "met": met}


def _interval(interval: Interval) -> Result:
    return asdict(interval)


def _counted(values: Sequence[str]) -> dict[str, int]:
    return {value: values.count(value) for value in sorted(set(values))}
