"""`explore`: sends a small share of the requests the other way, by lot, so that the log can tell what that is like.

Routing is deterministic otherwise: of requests that always go to the student nobody ever learns how the teacher would
have done, by feedback at least. With a lot both are observed, and the recorded probability of what was done
(`propensity`) makes estimates from them unbiased (policies/replay/estimators.py).

**One lot a request**, and at the last moment at which its outcome is still open:

- the teacher was chosen before generation: with `to_student` the student answers, and nobody reviews it: a lot that a
  review could overrule would have another probability than the recorded one, and one that depends on a draft which the
  requests that were not drawn do not have;
- the student was chosen and nobody would review its answer: with `to_teacher` the teacher answers;
- the student was chosen and its answer is reviewed: nothing is drawn before, and the lot decides about the draft: one
  that stands goes to the teacher with `to_teacher`, one that would be thrown away stands with `to_student`.

**The budget** limits what exploring towards the teacher costs in a day. It scales the probability (`Lot.share`), by
what requests before have cost: never by this request's own length, answer or draw. The scaled probability is what is
recorded, also for the requests that were not drawn, so estimates stay unbiased when it shrinks, and when it stops.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.base import Abstain, Lot, PolicyConfigError, RequestFeatures, Route, RouteDecision
from policies.governor import DailyBudget, GovernorModel
from policies.record import Draft

EXPLORED = "explored"
EXCLUDED = frozenset(
    {
        "opted_out",  # the client has said `"explore": false`
        "not_traffic",  # an evaluation, a shadow, a judge's or a canary's call
        "not_recorded",  # capture level `none`: nobody could learn from it
        "not_allowed",  # its tenant may use only one of the models
    }
)
"""Why the gateway lets nothing be drawn."""
REASONS = EXCLUDED | {
    EXPLORED,  # the lot has turned the decision round
    "kept",  # it could have
    "no_share",  # its probability is 0: not wanted, or the budget is spent
    "drawn_later",  # the lot is about the draft
    "drawn_before",  # the lot was before generation, and nothing is reviewed
    "student_incapable",  # only the teacher can answer
    "no_lot",  # the features are of a record that has none
}


class ExploreStratum(BaseModel):
    """Requests with probabilities of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tags: dict[str, str] = Field(min_length=1)
    """All of them are on the request."""
    to_teacher: float = Field(0.0, ge=0.0, le=0.5)
    to_student: float = Field(0.0, ge=0.0, le=0.5)

    def fits(self, tags: dict[str, str]) -> bool:
        return all(tags.get(key) == value for key, value in self.tags.items())


class Explore(GovernorModel):
    """Sends a small share of the requests the other way, by lot, with the probability on record.

    Never what the student cannot serve, a forced route, a request with `"router": {"explore": false}`, one of a capture
    level `none`, or anything but traffic. `store: false` and a level `metadata` do not matter: they keep texts from the
    log, not decisions.
    """

    to_teacher: float = Field(
        0.01, ge=0.0, le=0.5, description="Probability with which the teacher answers what is the student's."
    )
    to_student: float = Field(
        0.01, ge=0.0, le=0.5, description="Probability with which the student answers what is the teacher's."
    )
    strata: tuple[ExploreStratum, ...] = Field(
        (),
        description="Other probabilities for requests with certain `tags`; the first stratum that fits counts.",
    )
    teacher_tokens_per_day: int | None = Field(
        None,
        gt=0,
        description="What exploring towards the teacher may take in a day (UTC), over all workers and replicas: prompt "
        "and output. Towards the end of it `to_teacher` shrinks. Either this or `usd_per_day`; neither: no limit.",
    )
    usd_per_day: float | None = Field(
        None, gt=0.0, allow_inf_nan=False, description="The same in USD, at the first teacher's prices."
    )

    @model_validator(mode="after")
    def _has_one_limit(self) -> Self:
        if self.teacher_tokens_per_day is not None and self.usd_per_day is not None:
            raise PolicyConfigError("usd_per_day: set it or `teacher_tokens_per_day`; a budget is in one of the two")
        return self

    @property
    def name(self) -> str:
        return "explore"

    @property
    def reasons(self) -> frozenset[str]:
        return REASONS

    @property
    def draws(self) -> bool:
        """Asked behind all other governors."""
        return True

    @property
    def daily_budget(self) -> DailyBudget | None:
        if self.teacher_tokens_per_day is None and self.usd_per_day is None:
            return None
        return DailyBudget(purpose="exploration", tokens=self.teacher_tokens_per_day, usd=self.usd_per_day)

    def reconsider(
        self, features: RequestFeatures, decision: RouteDecision, draft: Draft | None
    ) -> RouteDecision | Abstain | None:
        lot = features.signals.lot
        if not isinstance(lot, Lot):
            return Abstain(reason="no_lot")
        why_not = _why_not(lot, decision, draft)
        if why_not is not None:
            return Abstain(reason=why_not)
        probability = self.probability(features.tags, decision.route)
        if decision.route == "student":
            probability *= lot.share
        if probability <= 0.0:
            return Abstain(reason="no_share")
        other: Route = "student" if decision.route == "teacher" else "teacher"
        drawn = lot.draw < probability
        return RouteDecision(
            route=other if drawn else decision.route,
            reason=EXPLORED if drawn else "kept",
            score=decision.score,
            threshold=decision.threshold,
            propensity=probability if drawn else 1.0 - probability,
        )

    def probability(self, tags: dict[str, str], route: Route) -> float:
        """With which a decision for `route` is turned round, as long as there is budget."""
        found = next((each for each in self.strata if each.fits(tags)), None)
        to_teacher = self.to_teacher if found is None else found.to_teacher
        to_student = self.to_student if found is None else found.to_student
        return to_teacher if route == "student" else to_student


def _why_not(lot: Lot, decision: RouteDecision, draft: Draft | None) -> str | None:
    """The reason why nothing is drawn for this decision; None: something is."""
    if lot.excluded is not None:
        return lot.excluded
    if not decision.student_capable:
        return "student_incapable"
    if draft is None:
        return "drawn_later" if decision.route == "student" and lot.reviewed else None
    return None if lot.reviewed else "drawn_before"
