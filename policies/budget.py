"""`budget`: holds a day's budget of the teacher by raising what an escalation has to be worth.

The other policies say how much a request gains by the teacher: its score less the threshold. This one knows what all
the others want, and what is left for the day: it asks `price * expected cost` more. The price is the dual variable of
the day's budget, the same for every request at a time, and the gateway finds it (policies/pacing.py). So the budget
goes where a token buys most, at every hour, instead of to whoever comes first.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from policies.base import Abstain, PolicyConfigError, Quote, RequestFeatures, RouteDecision
from policies.governor import DailyBudget, GovernorModel
from policies.record import Draft

REASONS = frozenset(
    {
        "over_price",  # the student answers: the escalation is worth less than it costs
        "worth_its_price",
        "not_escalated",  # the other policies have chosen the student
        "student_incapable",  # only the teacher can answer: it is charged, and not asked whether it is worth it
        "no_price",  # the gateway has none: it has just started, or the features are of an older record
    }
)
UNSCORED = (1.0, 0.0)
"""Score and threshold of an escalation that has none: a rule was certain, so that it is given up last."""


class Budget(GovernorModel):
    """Holds a daily budget of teacher tokens or USD: escalates only what is worth more than the price of the moment.

    A request that the student cannot serve, and one that asks for the teacher by name, always passes and is charged.
    The limits of tenants (`[limits]`) are another matter: they refuse, this one chooses.
    """

    tokens_per_day: int | None = Field(
        None,
        gt=0,
        description="Prompt and output of the teacher's answers in a day (UTC), over all workers and replicas. Either "
        "this or `usd_per_day`.",
    )
    usd_per_day: float | None = Field(
        None, gt=0.0, allow_inf_nan=False, description="The same in USD, at the first teacher's prices."
    )
    tag: str | None = Field(
        None, min_length=1, description="Answers differ in length by the values of this tag: they are expected apart."
    )

    @model_validator(mode="after")
    def _has_one_limit(self) -> Self:
        if self.tokens_per_day is not None and self.usd_per_day is not None:
            raise PolicyConfigError("usd_per_day: `tokens_per_day` is set as well; a budget is in one of the two")
        return self

    @property
    def name(self) -> str:
        return "budget"

    @property
    def reasons(self) -> frozenset[str]:
        return REASONS

    @property
    def daily_budget(self) -> DailyBudget | None:
        if self.tokens_per_day is None and self.usd_per_day is None:
            return None
        return DailyBudget(purpose="teacher", tokens=self.tokens_per_day, usd=self.usd_per_day, tag=self.tag)

    @property
    def warning(self) -> str | None:
        """What `locum check` says of options that are valid and do nothing."""
        if self.daily_budget is not None:
            return None
        return "budget: neither `tokens_per_day` nor `usd_per_day` is set, so it lets every decision stand"

    def reconsider(
        self, features: RequestFeatures, decision: RouteDecision, draft: Draft | None
    ) -> RouteDecision | Abstain | None:
        if decision.route != "teacher":
            return Abstain(reason="not_escalated")
        if not decision.student_capable:
            return Abstain(reason="student_incapable")
        quote = features.signals.quote
        if not isinstance(quote, Quote):
            return Abstain(reason="no_price", score=decision.score, threshold=decision.threshold)
        score, threshold = worth_of(decision)
        raised = min(1.0, threshold + quote.price * quote.cost)
        if score > raised or quote.price == 0.0:
            return Abstain(reason="worth_its_price", score=score, threshold=raised)
        return RouteDecision(route="student", reason="over_price", score=score, threshold=raised)


def worth_of(decision: RouteDecision) -> tuple[float, float]:
    """Score and threshold of an escalation; their difference is what it is worth at a price of 0."""
    if decision.score is None:
        return UNSCORED
    return decision.score, 0.0 if decision.threshold is None else decision.threshold
