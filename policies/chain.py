"""The chain of policies: asks each in order; the first that does not abstain decides."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import get_args

import msgspec

from policies.base import Abstain, Policy, RequestFeatures, Route, RouteDecision, Signal

logger = logging.getLogger(__name__)

Measure = Callable[[Signal, RequestFeatures], Awaitable[RequestFeatures]]
"""Takes a measurement: returns features in which the signal is present or listed as unavailable."""

CHAIN_REASONS = frozenset({"default", "policy_error", "abstained", "other"})
"""Reasons that the chain itself gives, beside those of its policies."""
MAX_MEASUREMENTS_PER_POLICY = 4
ROUTES = frozenset(get_args(Route))


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
        self._default = RouteDecision(route=default_route, reason="default", policy="default", version=version)
        self._on_error = RouteDecision(route=on_policy_error, reason="policy_error")

    async def evaluate(self, features: RequestFeatures, measure: Measure, *, every_vote: bool = False) -> Evaluation:
        """Ask the policies in order and stop at the first decision, or go on to collect `every_vote`.

        A policy that raises, or that answers what is no decision, never fails the request: `on_policy_error`
        decides in its place, and the vote `policy_error` is counted by the gateway.
        """
        decision: RouteDecision | None = None
        votes: list[Vote] = []
        for policy in self.policies:
            try:
                features = await _with_signals(policy, features, measure)
                answer = _checked(policy.decide(features))
            except Exception:
                logger.warning("policy %s failed; on_policy_error decides", policy.name, exc_info=True)
                answer = self._on_error
            vote = _vote(answer, policy)
            votes.append(vote)
            if isinstance(answer, RouteDecision) and decision is None:
                decision = msgspec.structs.replace(answer, reason=vote.reason, policy=policy.name, version=self.version)
            if decision is not None and not every_vote:
                break
        return Evaluation(decision=decision or self._default, votes=tuple(votes), features=features)


async def _with_signals(policy: Policy, features: RequestFeatures, measure: Measure) -> RequestFeatures:
    for _ in range(MAX_MEASUREMENTS_PER_POLICY):
        signal = policy.needs(features)
        if signal is None:
            return features
        features = await measure(Signal(signal), features)
    raise RuntimeError(f"policy {policy.name} keeps asking for signals")


def _checked(answer: object) -> RouteDecision | Abstain | None:
    """The answer of a policy, or an error if it is none: third-party code may return anything."""
    if answer is None:
        return None
    if not isinstance(answer, RouteDecision | Abstain):
        raise TypeError(f"decide returned {type(answer).__name__}, not RouteDecision, Abstain or None")
    if isinstance(answer, RouteDecision) and answer.route not in ROUTES:
        raise ValueError(f"decide chose the route {answer.route!r}; routes are {sorted(ROUTES)}")
    for name, value in (("score", answer.score), ("threshold", answer.threshold)):
        if value is not None and not 0.0 <= value <= 1.0:
            raise ValueError(f"decide gave the {name} {value!r}, which is not within [0, 1]")
    return answer


def _vote(answer: RouteDecision | Abstain | None, policy: Policy) -> Vote:
    if answer is None:
        return Vote(policy=policy.name, route=None, reason="abstained")
    return Vote(
        policy=policy.name,
        route=answer.route if isinstance(answer, RouteDecision) else None,
        reason=_bounded(answer.reason, policy),
        score=answer.score,
        threshold=answer.threshold,
    )


def _bounded(reason: str, policy: Policy) -> str:
    """Reasons are metric labels: one that a policy has not declared becomes `other`."""
    return reason if reason in policy.reasons or reason in CHAIN_REASONS else "other"
