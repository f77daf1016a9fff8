"""The chain of policies: asks each in order; the first that does not abstain decides.

Policies are asked before generation, reviewers about the student's draft.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, get_args

import msgspec

from policies.artefact import sha256_behind
from policies.base import (
    Abstain,
    DraftMeasures,
    Extend,
    MeasuringReviewer,
    Policy,
    RequestFeatures,
    Reviewer,
    Route,
    RouteDecision,
    Signal,
)
from policies.draft_signals import DraftSignal
from policies.window import CommitWindow, Progress, widest

if TYPE_CHECKING:
    from policies.governing import Governors
    from policies.record import Draft
    from policies.shadowing import Shadows
    from policies.standing import Standing

logger = logging.getLogger(__name__)

Measure = Callable[[Signal, RequestFeatures], Awaitable[RequestFeatures]]
"""Takes a measurement: returns features in which the signal is present or listed as unavailable."""

CHAIN_REASONS = frozenset({"default", "policy_error", "abstained", "other"})
"""Reasons that the chain itself gives, beside those of its policies."""
MAX_MEASUREMENTS_PER_POLICY = 4
ROUTES = frozenset(get_args(Route))


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy said. `route` is None when it abstained, or as a governor let the decision stand."""

    policy: str
    route: Route | None
    reason: str
    score: float | None = None
    threshold: float | None = None
    shadow: bool | msgspec.UnsetType = msgspec.UNSET
    """True: a policy of `mode = "shadow"`, which was asked and had no say. Not set, and not written, for all others."""
    scored_by: str | msgspec.UnsetType = msgspec.UNSET
    """sha256 of the learned artefact that gave `score` before generation: whoever has the vote and the artefact need
    not have the text. Not written for others."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one pass over the chain."""

    decision: RouteDecision
    votes: tuple[Vote, ...]
    features: RequestFeatures
    """The features with every signal that was measured on the way."""


class _Voter(Protocol):
    """A seat of whatever kind."""

    @property
    def name(self) -> str: ...

    @property
    def reasons(self) -> frozenset[str]: ...


class _Seat(NamedTuple):
    """A policy in its chain, with what is asked of it on every request looked up once."""

    policy: Policy
    name: str
    reasons: frozenset[str]
    artefact_sha256: str | None


class _ReviewerSeat(NamedTuple):
    reviewer: Reviewer
    name: str
    reasons: frozenset[str]
    window: CommitWindow | None


class PolicyChain:
    """An ordered, versioned list of policies and one of reviewers. Immutable: a new document is a new chain."""

    def __init__(
        self,
        policies: Sequence[Policy],
        *,
        reviewers: Sequence[Reviewer] = (),
        version: str,
        default_route: Route,
        on_policy_error: Route,
        governors: Governors | None = None,
        shadows: Shadows | None = None,
        standings: Sequence[Standing] = (),
    ) -> None:
        """
        Args:
            governors: reconsider what the policies, or the reviewers, have decided.
            shadows: are asked by the gateway, beside the request.
            standings: of the certificates of its policies.
        """
        self.standings = tuple(standings)
        self.governors = governors
        self.shadows = shadows
        self.policies = tuple(policies)
        self.reviewers = tuple(reviewers)
        self.version = version
        self.default_route = default_route
        self._seats = [
            _Seat(policy, policy.name, policy.reasons | CHAIN_REASONS, sha256_behind(policy)) for policy in policies
        ]
        self._reviewer_seats = [
            _ReviewerSeat(each, each.name, each.reasons | CHAIN_REASONS, getattr(each, "commit_window", None))
            for each in reviewers
        ]
        self.commit_window = widest([seat.window for seat in self._reviewer_seats if seat.window is not None])
        """What is held back of a student's stream; None: nothing."""
        self._watching = [seat for seat in self._reviewer_seats if seat.window and seat.window.late_alarm]
        self._measuring = [each for each in reviewers if isinstance(each, MeasuringReviewer)]
        self.measures = _all_of([each.measures for each in self._measuring])
        """What may be asked for about a draft."""
        self._default = RouteDecision(route=default_route, reason="default", policy="default", version=version)
        self._on_error = RouteDecision(route=on_policy_error, reason="policy_error")

    async def evaluate(self, features: RequestFeatures, measure: Measure, *, every_vote: bool = False) -> Evaluation:
        """Ask the policies in order and stop at the first decision, or go on to collect `every_vote`.

        A policy that raises, or that answers what is no decision, never fails the request: `on_policy_error`
        decides in its place, and the vote `policy_error` is counted by the gateway.
        """
        decision: RouteDecision | None = None
        votes: list[Vote] = []
        for seat in self._seats:
            policy = seat.policy
            try:
                signal = policy.needs(features)
                if signal is not None:
                    features = await with_signals(policy, signal, features, measure)
                answer = checked(policy.decide(features))
            except Exception:
                logger.warning("policy %s failed; on_policy_error decides", seat.name, exc_info=True)
                answer = self._on_error
            vote = vote_of(answer, seat, scored_by=seat.artefact_sha256)
            votes.append(vote)
            if isinstance(answer, RouteDecision) and decision is None:
                decision = msgspec.structs.replace(answer, reason=vote.reason, policy=seat.name, version=self.version)
            if decision is not None and not every_vote:
                break
        decision = decision or self._default
        if self.governors is not None:
            decision = self.governors.reconsider(features, decision, votes)
        return Evaluation(decision=decision, votes=tuple(votes), features=features)

    @property
    def asked_first(self) -> tuple[Policy, ...]:
        """All policies that are asked before generation, in shadow as well: what they measure by must be there."""
        return self.policies if self.shadows is None else (*self.policies, *self.shadows.policies)

    def read(self, features: RequestFeatures, draft: Draft) -> Draft:
        """The draft with what the reviewers take from the texts. A reviewer that fails here fails in `review` again."""
        for reviewer in self._measuring:
            try:
                draft = reviewer.read(features, draft)
            except Exception:
                logger.warning("reviewer %s cannot read a draft", reviewer.name, exc_info=True)
        return draft

    def needs_draft(self, features: RequestFeatures, draft: Draft) -> DraftSignal | None:
        """A measurement that a reviewer needs and that has not been tried yet."""
        for reviewer in self._measuring:
            try:
                signal = reviewer.needs_draft(features, draft)
            except Exception:
                logger.warning("reviewer %s cannot say what it needs", reviewer.name, exc_info=True)
                continue
            if signal is not None and not (draft.signals and signal in draft.signals.unavailable):
                return DraftSignal(signal)
        return None

    def review(self, features: RequestFeatures, draft: Draft) -> tuple[RouteDecision | Extend | None, tuple[Vote, ...]]:
        """Ask the reviewers about the student's draft; the first that does not abstain decides.

        Returns:
            The decision, None when all abstained (the draft is the answer then), and what each one that was asked
            said. `Extend` only for an extendable draft: they are to be asked again. Like `evaluate` it never fails the
            request: `on_policy_error` decides for a reviewer that raises.
        """
        decision, votes = self._judged(features, draft)
        if isinstance(decision, Extend):
            return decision, votes
        if self.governors is not None:
            decision, votes = self.governors.review(features, draft, decision, votes)
        if self.shadows is not None:
            votes += self.shadows.review(features, draft)
        return decision, votes

    def _judged(
        self, features: RequestFeatures, draft: Draft
    ) -> tuple[RouteDecision | Extend | None, tuple[Vote, ...]]:
        votes: list[Vote] = []
        for seat in self._reviewer_seats:
            if draft.prefix and seat.window is None:
                continue
            try:
                answer = checked(seat.reviewer.review(features, draft), member="review")
            except Exception:
                logger.warning("reviewer %s failed; on_policy_error decides", seat.name, exc_info=True)
                answer = self._on_error
            vote = vote_of(answer, seat)
            votes.append(vote)
            if isinstance(answer, RouteDecision):
                return self._signed(answer, vote), tuple(votes)
            if isinstance(answer, Extend) and draft.extendable:
                return msgspec.structs.replace(answer, reason=vote.reason), tuple(votes)
        return None, tuple(votes)

    def alarm(self, features: RequestFeatures, progress: Progress) -> RouteDecision | None:
        """Ask whose commit window has a late alarm about a stream that the client reads; a decision rings.

        One that raises does not: there is nothing that would have to be decided.
        """
        for seat in self._watching:
            try:
                answer = checked(seat.reviewer.alarm(features, progress), member="alarm")  # type: ignore[attr-defined]
            except Exception:
                logger.warning("reviewer %s failed behind its window", seat.name, exc_info=True)
                continue
            if isinstance(answer, RouteDecision) and answer.route == "teacher":
                return self._signed(answer, vote_of(answer, seat))
        return None

    def _signed(self, answer: RouteDecision, vote: Vote) -> RouteDecision:
        return msgspec.structs.replace(answer, reason=vote.reason, policy=vote.policy, version=self.version)


def _all_of(measures: Sequence[DraftMeasures]) -> DraftMeasures:
    """Of several second samples the first one's way of asking counts: there is one for all."""
    samples = [each.second_sample for each in measures if each.second_sample is not None]
    top_logprobs = max((each.top_logprobs for each in measures), default=0)
    return DraftMeasures(top_logprobs=top_logprobs, second_sample=samples[0] if samples else None)


async def with_signals(
    policy: Policy, signal: Signal | None, features: RequestFeatures, measure: Measure
) -> RequestFeatures:
    for _ in range(MAX_MEASUREMENTS_PER_POLICY):
        if signal is None:
            return features
        features = await measure(Signal(signal), features)
        signal = policy.needs(features)
    raise RuntimeError(f"policy {policy.name} keeps asking for signals")


def checked(answer: object, *, member: str = "decide") -> RouteDecision | Abstain | Extend | None:
    """The answer of a policy, or an error if it is none: third-party code may return anything."""
    if answer is None:
        return None
    if not isinstance(answer, (RouteDecision, Abstain)) and not (member == "review" and isinstance(answer, Extend)):
        raise TypeError(f"{member} returned {type(answer).__name__}, not RouteDecision, Abstain or None")
    if isinstance(answer, RouteDecision) and answer.route not in ROUTES:
        raise ValueError(f"{member} chose the route {answer.route!r}; routes are {sorted(ROUTES)}")
    score, threshold = answer.score, answer.threshold
    if not ((score is None or 0.0 <= score <= 1.0) and (threshold is None or 0.0 <= threshold <= 1.0)):
        raise ValueError(f"{member} gave score {score!r} and threshold {threshold!r}; both are within [0, 1]")
    return answer


def vote_of(answer: RouteDecision | Abstain | Extend | None, seat: _Voter, *, scored_by: str | None = None) -> Vote:
    """
    Args:
        scored_by: sha256 of the artefact behind a score.
    """
    if answer is None:
        return Vote(policy=seat.name, route=None, reason="abstained")
    return Vote(
        policy=seat.name,
        route=answer.route if isinstance(answer, RouteDecision) else None,
        # Reasons are metric labels: one that a policy has not declared becomes `other`.
        reason=answer.reason if answer.reason in seat.reasons else "other",
        score=answer.score,
        threshold=answer.threshold,
        scored_by=msgspec.UNSET if scored_by is None or answer.score is None else scored_by,
    )


def with_scores(features: RequestFeatures, votes: Sequence[Vote]) -> RequestFeatures:
    """Recorded features with what learned artefacts said of them then, in shadow as well, by their hashes."""
    scores = {
        each.scored_by: each.score for each in votes if isinstance(each.scored_by, str) and each.score is not None
    }
    if not scores:
        return features
    return msgspec.structs.replace(features, signals=msgspec.structs.replace(features.signals, scores=scores))
