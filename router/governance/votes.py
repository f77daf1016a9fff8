"""What shadows have said, beside what was decided."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from policies.base import Route
from policies.chain import PolicyChain, Vote
from policies.record import DecisionRecord

Agreement = Literal["same", "other", "none"]


def shadow_votes_of(record: DecisionRecord, chain: PolicyChain) -> Iterator[tuple[Vote, str, Agreement]]:
    """(vote, route, agreement) of each vote in shadow. The route is `abstain` for an abstention, `error` for a policy
    that failed.

    An abstention agrees with what happens when all abstain: the default route, and a draft that stands.
    """
    reviewers = chain.shadows.reviewer_names if chain.shadows is not None else frozenset()
    for vote in record.votes:
        if not vote.shadow:
            continue
        if vote.reason == "policy_error":
            yield vote, "error", "none"
            continue
        about_draft = vote.policy in reviewers
        meant: Route = vote.route or ("student" if about_draft else chain.default_route)
        decided: Route = record.decision.route
        if about_draft and record.draft is not None:
            decided = "teacher" if record.draft.escalated else "student"
        yield vote, vote.route or "abstain", "same" if meant == decided else "other"
