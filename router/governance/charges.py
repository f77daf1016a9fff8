"""What the policies had wanted before governors reconsidered it, read out of the votes of a finished request."""

from __future__ import annotations

from policies.base import Lot, RequestFeatures, Route, RouteDecision
from policies.budget import UNSCORED
from policies.chain import PolicyChain
from policies.record import DecisionRecord

FORCED_POLICY = "request"
DEFAULT = "default"


def tentative_gain(record: DecisionRecord, chain: PolicyChain) -> tuple[bool, float | None]:
    """Whether the policies had chosen the teacher, and score less threshold; None: nobody else could have answered.

    Governors give their own reasons: what counts is what was said to them.
    """
    if record.decision.policy == FORCED_POLICY:
        return False, None
    if not record.decision.student_capable:
        return True, None
    governors = chain.governors.names if chain.governors is not None else frozenset[str]()
    for vote in reversed(record.votes):
        if vote.shadow or vote.policy in governors:
            continue
        if vote.route == "teacher":
            score, threshold = UNSCORED if vote.score is None else (vote.score, vote.threshold or 0.0)
            return True, max(0.0, score - threshold)
        if vote.route == "student":
            return False, None
    if chain.default_route == "teacher" and record.draft is None:
        return True, UNSCORED[0] - UNSCORED[1]
    return False, None


def exploration_of(record: DecisionRecord, features: RequestFeatures, chain: PolicyChain) -> tuple[float, bool]:
    """With which probability the teacher would have answered by lot, were there budget without end; and whether it did.

    0 for a request of which the lot could only have made one of the student's.
    """
    explorer = chain.governors.explorer if chain.governors is not None else None
    lot = features.signals.lot
    if explorer is None or not isinstance(lot, Lot) or lot.excluded is not None:
        return 0.0, False
    review = record.draft.review if record.draft is not None else None
    last: RouteDecision = review if review is not None else record.decision
    drawn = last.policy == explorer.name  # it signs what it has turned round, and nothing else
    before: Route = ("student" if last.route == "teacher" else "teacher") if drawn else last.route
    if before != "student" or record.decision.policy == FORCED_POLICY or not record.decision.student_capable:
        return 0.0, False
    if lot.reviewed and record.draft is None:
        return 0.0, False  # the draft that would have been drawn for never came
    return explorer.probability(features.tags, "student"), drawn
