"""The governors of a chain: asked behind the policies, and behind the reviewers, with what those have decided."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from policies.base import RequestFeatures, RouteDecision
from policies.chain import CHAIN_REASONS, Vote, checked
from policies.governor import DailyBudget, Explorer, Governor

if TYPE_CHECKING:
    from policies.record import Draft

logger = logging.getLogger(__name__)

STANDS = "stands"
"""Reason of the decision about a draft that no reviewer rejected, as governors see it."""


class _Seat(NamedTuple):
    governor: Governor
    name: str
    reasons: frozenset[str]


class Governors:
    """Those of one chain. Whoever draws is asked last: what is drawn must not be overruled, or its probability would be
    another one than the recorded."""

    def __init__(self, governors: Sequence[Governor], *, version: str) -> None:
        self.all = tuple(sorted(governors, key=lambda each: bool(getattr(each, "draws", False))))
        self.budgets: tuple[DailyBudget, ...] = tuple(
            budget for each in self.all if (budget := getattr(each, "daily_budget", None)) is not None
        )
        self.names = frozenset(each.name for each in self.all)
        self.explorer = next((each for each in self.all if isinstance(each, Explorer)), None)
        """Whoever draws."""
        self._version = version
        self._seats = [_Seat(each, each.name, each.reasons | CHAIN_REASONS) for each in self.all]

    def reconsider(
        self, features: RequestFeatures, decision: RouteDecision, votes: list[Vote], draft: Draft | None = None
    ) -> RouteDecision:
        """What holds in the end. A governor that raises leaves the decision as it is.

        Args:
            votes: what has been said so far; the governors' votes are appended.
        """
        for seat in self._seats:
            decision, vote = reconsidered(seat.governor, seat.reasons, features, decision, draft, self._version)
            votes.append(vote)
        return decision

    def review(
        self, features: RequestFeatures, draft: Draft, decision: RouteDecision | None, votes: tuple[Vote, ...]
    ) -> tuple[RouteDecision | None, tuple[Vote, ...]]:
        """The same about a draft. None: all reviewers abstained and the draft stands, and no governor has drawn."""
        tentative = decision or _standing(votes, self._version)
        said = list(votes)
        found = self.reconsider(features, tentative, said, draft)
        return (decision if found is tentative else found), tuple(said)


def reconsidered(
    governor: Governor,
    reasons: frozenset[str],
    features: RequestFeatures,
    decision: RouteDecision,
    draft: Draft | None,
    version: str,
) -> tuple[RouteDecision, Vote]:
    """What one governor makes of a decision, and its vote: None for a route when it stands."""
    name = governor.name
    try:
        answer = checked(governor.reconsider(features, decision, draft), member="reconsider")
    except Exception:
        logger.warning("governor %s failed; the decision stands", name, exc_info=True)
        return decision, Vote(policy=name, route=None, reason="policy_error")
    if answer is None:
        return decision, Vote(policy=name, route=None, reason="abstained")
    reason = answer.reason if answer.reason in reasons else "other"
    vote = Vote(policy=name, route=None, reason=reason, score=answer.score, threshold=answer.threshold)
    if not isinstance(answer, RouteDecision):
        return decision, vote
    propensity = decision.propensity * answer.propensity
    if answer.route == decision.route:
        return msgspec.structs.replace(decision, propensity=propensity), vote
    changed = msgspec.structs.replace(
        answer, reason=reason, policy=name, version=version, propensity=propensity, student_capable=True
    )
    return changed, msgspec.structs.replace(vote, route=answer.route)


def _standing(votes: Sequence[Vote], version: str) -> RouteDecision:
    """The decision that a draft stands, with the last score that a reviewer gave it."""
    scored = next((vote for vote in reversed(votes) if vote.score is not None), None)
    return RouteDecision(
        route="student",
        reason=STANDS,
        score=scored.score if scored else None,
        threshold=scored.threshold if scored else None,
        policy=scored.policy if scored else "default",
        version=version,
    )
