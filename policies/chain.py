"""The chain of policies: asks each in order; the first that does not abstain decides."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from policies.base import Abstain, Policy, RequestFeatures, Route, RouteDecision, Signal

logger = logging.getLogger(__name__)

Measure = Callable[[Signal, RequestFeatures], Awaitable[RequestFeatures]]
"""Takes a measurement: returns features in which the signal is present or listed as unavailable."""

CHAIN_REASONS = frozenset({"default", "policy_error"})
MAX_MEASUREMENTS_PER_POLICY = 4


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy said. `route` is None when it abstained."""

    policy: str
    route: Route | None
    reason: str
    score: float | None = None
    threshold: float | None = None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one pass over the chain."""

    decision: RouteDecision
    votes: tuple[Vote, ...]
    features: RequestFeatures
    """The features with every signal that was measured on the way."""


class PolicyChain:
    """An ordered, versioned list of policies. Immutable: a new document is a new chain."""

    def __init__(
        self, policies: Sequence[Policy], *, version: str, default_route: Route, on_policy_error: Route
    ) -> None:
        self.policies = tuple(policies)
        self.version = version
        self._default = RouteDecision(
            route=default_route, reason="default", policy="default", version=version
        )
        self._on_error: Route = on_policy_error

    async def evaluate(
        self, features: RequestFeatures, measure: Measure, *, every_vote: bool = False
    ) -> Evaluation:
        """Ask the policies in order and stop at the first decision, or go on to collect `every_vote`.

        A policy that raises never fails the request: `on_policy_error` decides in its place.
        """
        decision: RouteDecision | None = None
        votes: list[Vote] = []
        for policy in self.policies:
            try:
                features = await _with_signals(policy, features, measure)
                answer = policy.decide(features)
            except Exception:  # noqa: BLE001 - third-party code; the vote `policy_error` is counted by the gateway
                logger.warning("policy %s raised; on_policy_error decides", policy.name, exc_info=True)
                answer = RouteDecision(route=self._on_error, reason="policy_error")
            if isinstance(answer, RouteDecision):
                reason = _bounded(answer.reason, policy)
                votes.append(
                    Vote(
                        policy=policy.name,
                        route=answer.route,
                        reason=reason,
                        score=answer.score,
                        threshold=answer.threshold,
                    )
                )
                if decision is None:
                    decision = msgspec.structs.replace(
                        answer, reason=reason, policy=policy.name, version=self.version
                    )
                if not every_vote:
                    break
            elif isinstance(answer, Abstain):
                votes.append(
                    Vote(
                        policy=policy.name,
                        route=None,
                        reason=_bounded(answer.reason, policy),
                        score=answer.score,
                        threshold=answer.threshold,
                    )
                )
            else:
                votes.append(Vote(policy=policy.name, route=None, reason="abstained"))
        return Evaluation(decision=decision or self._default, votes=tuple(votes), features=features)


async def _with_signals(policy: Policy, features: RequestFeatures, measure: Measure) -> RequestFeatures:
    for _ in range(MAX_MEASUREMENTS_PER_POLICY):
        signal = policy.needs(features)
        if signal is None:
            return features
        features = await measure(signal, features)
    raise RuntimeError(f"policy {policy.name} keeps asking for signals")


def _bounded(reason: str, policy: Policy) -> str:
    return reason if reason in policy.reasons or reason in CHAIN_REASONS else "other"
