"""Policies in shadow (`mode = "shadow"`): asked about real requests, their votes recorded, without any say.

So a learned score shows what it would do before it decides. A shadow can neither fail nor slow a request: it is asked
while a model is at work on the answer, raises into its own vote, and has a share of the time. Measurements that only it
would need are taken for a sample of the requests.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from policies.artefact import sha256_behind
from policies.base import Policy, RequestFeatures, Reviewer, RouteDecision
from policies.chain import CHAIN_REASONS, Measure, PolicyChain, Vote, checked, vote_of, with_signals
from policies.governing import reconsidered
from policies.governor import Governor

if TYPE_CHECKING:
    from policies.record import Draft

logger = logging.getLogger(__name__)

TIME_S = 0.0005
"""What all shadows of a process may take of it for each request, on average."""
SAVED_S = 0.05
"""Time that requests without a shadow's turn save up. A slower policy is asked about fewer requests."""
DEFAULT_MEASURE_SHARE = 0.1


class Shadowed(NamedTuple):
    """One policy in shadow."""

    policy: Policy | Reviewer | Governor
    measure_share: float = DEFAULT_MEASURE_SHARE
    """Of the requests about which it needs a measurement that nobody else has asked for: how many get it. About the
    others it is not asked."""


class _Seat(NamedTuple):
    policy: Policy | Reviewer | Governor
    name: str
    reasons: frozenset[str]
    measure_share: float


class Shadows:
    """Those of one chain."""

    def __init__(
        self,
        shadowed: Sequence[Shadowed],
        *,
        version: str = "",
        clock: Callable[[], float] = time.perf_counter,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
            clock: seconds.
            uniform: draws in [0, 1) which requests are measured.
        """
        self.all = tuple(each.policy for each in shadowed)
        seats = [_Seat(each, each.name, each.reasons | CHAIN_REASONS, share) for each, share in shadowed]
        self._policies = [seat for seat in seats if isinstance(seat.policy, Policy)]
        self._reviewers = [seat for seat in seats if isinstance(seat.policy, Reviewer)]
        self._governors = [seat for seat in seats if isinstance(seat.policy, Governor)]
        self.policies = tuple(seat.policy for seat in self._policies if isinstance(seat.policy, Policy))
        self.reviews = bool(self._reviewers)
        """Whether drafts of the student are shown to one of them."""
        self.reviewer_names = frozenset(seat.name for seat in self._reviewers if not isinstance(seat.policy, Policy))
        """Of those that vote on drafts alone."""
        self.artefacts = {seat.name: sha256 for seat in seats if (sha256 := sha256_behind(seat.policy)) is not None}
        """Hash of the learned artefact behind a vote, by the policy's name."""
        self._version = version
        self._clock = clock
        self._uniform = uniform
        self._left_s = SAVED_S

    async def ask(self, features: RequestFeatures, decision: RouteDecision, measure: Measure) -> tuple[Vote, ...]:
        """Their votes before generation, of those that had their turn. Never raises for a policy.

        Args:
            decision: what was decided; governors in shadow reconsider it.
        """
        self._next_request()
        votes: list[Vote] = []
        for seat in self._policies:
            assert isinstance(seat.policy, Policy)  # noqa: S101 - sorted by the constructor
            if self._left_s <= 0:
                break
            began_s = self._clock()
            try:
                signal = seat.policy.needs(features)
                if signal is not None:
                    if self._uniform() >= seat.measure_share:
                        continue
                    self._left_s -= self._clock() - began_s
                    features = await with_signals(seat.policy, signal, features, measure)
                    began_s = self._clock()
                answer = checked(seat.policy.decide(features))
                votes.append(_marked(vote_of(answer, seat, scored_by=sha256_behind(seat.policy))))
            except Exception:
                logger.warning("policy %s failed in shadow", seat.name, exc_info=True)
                votes.append(_failed(seat))
            finally:
                self._left_s -= self._clock() - began_s
        for seat in self._governors:
            assert isinstance(seat.policy, Governor)  # noqa: S101 - as above
            _, vote = reconsidered(seat.policy, seat.reasons, features, decision, None, self._version)
            votes.append(_marked(vote))
        return tuple(votes)

    def review(self, features: RequestFeatures, draft: Draft) -> tuple[Vote, ...]:
        """Their votes on a draft of the student; nothing is measured for them that is not there."""
        votes: list[Vote] = []
        for seat in self._reviewers:
            assert isinstance(seat.policy, Reviewer)  # noqa: S101 - as above
            if self._left_s <= 0 or (draft.prefix and getattr(seat.policy, "commit_window", None) is None):
                continue
            began_s = self._clock()
            try:
                read = getattr(seat.policy, "read", None)
                answer = seat.policy.review(features, draft if read is None else read(features, draft))
                votes.append(_marked(vote_of(checked(answer, member="review"), seat)))
            except Exception:
                logger.warning("policy %s failed in shadow", seat.name, exc_info=True)
                votes.append(_failed(seat))
            finally:
                self._left_s -= self._clock() - began_s
        return tuple(votes)

    def _next_request(self) -> None:
        self._left_s = min(SAVED_S, self._left_s + TIME_S)


def deciding_artefacts(chain: PolicyChain) -> dict[str, str]:
    """Hash of the learned artefact of each policy that has a say, by its name."""
    deciding: list[Policy | Reviewer | Governor] = [*chain.policies, *chain.reviewers]
    deciding += chain.governors.all if chain.governors is not None else ()
    found = ((each.name, sha256_behind(each)) for each in deciding)
    return {name: sha256 for name, sha256 in found if sha256 is not None}


def _failed(seat: _Seat) -> Vote:
    return Vote(policy=seat.name, route=None, reason="policy_error", shadow=True)


def _marked(vote: Vote) -> Vote:
    return msgspec.structs.replace(vote, shadow=True)
