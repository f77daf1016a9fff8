"""The contract of a governor: a policy that reconsiders what the others have decided, for all of the day's traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import msgspec

from policies.base import Abstain, OptionsModel, RequestFeatures, Route, RouteDecision

if TYPE_CHECKING:
    from policies.record import Draft


class DailyBudget(msgspec.Struct, frozen=True, kw_only=True):
    """What of the teacher a governor may spend in a day (UTC), over all workers and replicas; one of the two is set."""

    purpose: Literal["teacher", "exploration"]
    tokens: float | None = None
    """Prompt and output."""
    usd: float | None = None
    tag: str | None = None
    """Answers are of different length for different values of this tag."""

    @property
    def limit(self) -> float:
        """In the unit of `Quote.cost`."""
        return self.usd if self.usd is not None else (self.tokens or 0.0) / 1000


@runtime_checkable
class Governor(Protocol):
    """A policy that is asked behind all others, with what they have decided, and may decide otherwise: for what it
    costs all of the day's traffic, or to learn something. It never sees requests whose route the client forced.

    Like every policy it is a pure function. What it must know of other requests comes as `signals.quote` and
    `signals.lot`, which are recorded. Governors are asked in the order of the document, each with the decision of the
    one before, whatever place they have among the other policies. One with a `daily_budget` is quoted and charged.
    """

    @property
    def name(self) -> str:
        """As of a `Policy`."""
        ...

    @property
    def reasons(self) -> frozenset[str]:
        """Every reason that `reconsider` may give."""
        ...

    def reconsider(
        self, features: RequestFeatures, decision: RouteDecision, draft: Draft | None
    ) -> RouteDecision | Abstain | None:
        """Asked before generation (without a draft), and again about a draft that was reviewed.

        Args:
            decision: what holds so far. About a draft: `teacher`, or `student` with the score of the last reviewer.
        Returns:
            Another route; the same route with a `propensity`, when it was drawn and might have been the other; or an
            abstention: the decision stands. So it does when this raises.
        """
        ...


@runtime_checkable
class Explorer(Governor, Protocol):
    """A governor that turns decisions round by lot: its budget is kept by what it might spend."""

    def probability(self, tags: dict[str, str], route: Route) -> float:
        """With which a decision for `route` is turned round, as long as there is budget."""
        ...


class GovernorModel(OptionsModel):
    """Base for governors whose options are pydantic fields."""

    @property
    def daily_budget(self) -> DailyBudget | None:
        return None

    def reconsider(
        self, features: RequestFeatures, decision: RouteDecision, draft: Draft | None
    ) -> RouteDecision | Abstain | None:
        raise NotImplementedError
