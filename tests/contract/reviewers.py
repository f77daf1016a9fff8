"""Reviewers for tests of the gateway: `type = "tests.contract.reviewers:..."`."""

from __future__ import annotations

from policies.base import Abstain, CommitWindow, RequestFeatures, RouteDecision, escalate
from policies.record import Draft


class Doubter:
    """Escalates below a mean logprob of -1, at 0.5 ± the mean."""

    name = "doubter"
    reasons = frozenset({"doubtful", "sure", "no_logprobs"})

    def review(self, features: RequestFeatures, draft: Draft) -> RouteDecision | Abstain:
        if draft.mean_logprob is None:
            return Abstain(reason="no_logprobs")
        if draft.mean_logprob < -1:
            return escalate("doubtful", score=0.9, threshold=0.5)
        return Abstain(reason="sure", score=0.1, threshold=0.5)


class Broken:
    """Raises."""

    name = "broken"
    reasons = frozenset[str]()

    def review(self, features: RequestFeatures, draft: Draft) -> RouteDecision:
        raise RuntimeError("planted")


class EarlyDoubter(Doubter):
    """Judges the beginning of a stream as well."""

    name = "early_doubter"

    def __init__(self, tokens: int = 4, time_s: float = 5.0) -> None:
        self.commit_window = CommitWindow(tokens=tokens, time_s=time_s)
