"""Bill, share and quality of a part of the traffic: by its records, and by true labels that no operator has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from policies.intervals import Estimate, proportion, weighted_mean
from policies.record import DecisionRecord
from policies.traffic.reader import decisions
from trainer.claim.client import Answered
from trainer.claim.data import Case, is_right
from trainer.claim.steps import Result
from trainer.evaluation.statistics import paired_bootstrap

Answers = Mapping[str, Answered]


def records_of(traffic: Path, answers: Answers) -> list[DecisionRecord]:
    """The records of these answers. Raises: TrafficError."""
    wanted = {answer.decision_id for answer in answers.values()}
    return [record for record in decisions(traffic) if record.decision_id in wanted]


def scores(records: Iterable[DecisionRecord]) -> Iterator[float]:
    """P(the draft is wrong) of every request whose draft a cascade has judged."""
    for record in records:
        review = record.draft.review if record.draft is not None else None
        votes = (vote.score for vote in record.votes if vote.policy == "cascade" and not vote.shadow)
        said = review.score if review is not None else next((score for score in votes if score is not None), None)
        if said is not None:
            yield said


def bill(records: Sequence[DecisionRecord]) -> Result:
    """Shares and USD with 95 % intervals; `of_all_teacher` is spend by counterfactual spend."""
    if not records:
        raise ValueError("there is no record to make a bill of")
    spent = [record.cost_usd for record in records if record.cost_usd is not None]
    stated = [each.counterfactual_cost_usd for each in records if each.counterfactual_cost_usd is not None]
    return {
        "requests": len(records),
        "unpriced": len(records) - len(spent),
        "student_share": proportion(sum(each.route == "student" for each in records), len(records)).as_json(),
        "usd_per_request": _json(weighted_mean(spent)),
        "all_teacher_usd_per_request": _json(weighted_mean(stated)),
        "of_all_teacher": sum(spent) / sum(stated) if stated and sum(stated) > 0 else None,
        "versions": sorted({record.decision.version for record in records}),
    }


def truth(cases: Sequence[Case], answers: Answers, teacher: Answers) -> Result:
    """By labels: how many of the delivered answers are right, and what the teacher alone would have got right more.

    Args:
        teacher: what it alone answered; where a case is missing the loss is not told.
    """
    right = [is_right(case, answers[case.id].text) for case in cases]
    by_teacher = [is_right(case, teacher[case.id].text) for case in cases if case.id in teacher]
    whole = len(by_teacher) == len(cases)
    return {
        "accuracy": proportion(sum(right), len(right)).as_json(),
        "teacher_accuracy": proportion(sum(by_teacher), len(by_teacher)).as_json() if whole else None,
        "loss": asdict(paired_bootstrap(by_teacher, right)) if whole else None,
    }


def _json(estimate: Estimate | None) -> Result | None:
    return None if estimate is None else dict(estimate.as_json())
