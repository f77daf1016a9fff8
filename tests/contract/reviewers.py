"""Reviewers for tests of the gateway: `type = "tests.contract.reviewers:..."`."""

from __future__ import annotations

from policies.base import Abstain, Extend, RequestFeatures, RouteDecision, escalate
from policies.record import Draft
from policies.window import CommitWindow, LateAction, LateAlarm, OnEscalation, Progress


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

    def __init__(self, tokens: int = 4, time_s: float = 5.0, on_escalation: OnEscalation = "cancel") -> None:
        self.commit_window = CommitWindow(tokens=tokens, time_s=time_s, on_escalation=on_escalation)


class Hesitant(EarlyDoubter):
    """Wants to see more, as long as it can."""

    name = "hesitant"
    reasons = EarlyDoubter.reasons | {"hesitates"}

    def __init__(
        self, tokens: int = 2, max_tokens: int = 8, time_s: float = 5.0, max_time_s: float = 10.0, until: int = 1000
    ) -> None:
        """
        Args:
            until: tokens from which on it knows.
        """
        self.commit_window = CommitWindow(tokens=tokens, max_tokens=max_tokens, time_s=time_s, max_time_s=max_time_s)
        self._until = until

    def review(self, features: RequestFeatures, draft: Draft) -> RouteDecision | Abstain | Extend:  # type: ignore[override]
        if draft.extendable and draft.tokens < self._until:
            return Extend(reason="hesitates", score=0.5, threshold=0.5)
        return super().review(features, draft)


class Watcher(EarlyDoubter):
    """Commits everything, and rings from a number of tokens on."""

    name = "watcher"
    reasons = frozenset({"sure", "late"})

    def __init__(
        self,
        action: LateAction = "mark",
        from_tokens: int = 6,
        on_escalation: OnEscalation = "cancel",
        finish_reason: str = "length",
        last_tokens: int = 2,
    ) -> None:
        alarm = LateAlarm(action=action, tokens=last_tokens, finish_reason=finish_reason)
        self.commit_window = CommitWindow(tokens=2, time_s=5.0, on_escalation=on_escalation, late_alarm=alarm)
        self._from_tokens = from_tokens

    def review(self, features: RequestFeatures, draft: Draft) -> Abstain:
        return Abstain(reason="sure", score=0.1, threshold=0.5)

    def alarm(self, features: RequestFeatures, progress: Progress) -> RouteDecision | None:
        return escalate("late", score=0.95, threshold=0.9) if progress.tokens >= self._from_tokens else None
