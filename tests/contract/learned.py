"""Policies with a learned artefact for tests of the gateway: `type = "tests.contract.learned:..."`."""

from __future__ import annotations

import time

from policies.base import Abstain, RequestFeatures, RouteDecision, escalate


class Hard:
    """Escalates what says that it is hard."""

    name = "hard"
    reasons = frozenset({"hard", "easy"})

    def __init__(self, score: float = 0.8, artefact: str = "") -> None:
        self._score = score
        self.artefact_sha256 = artefact * 64

    def decide(self, features: RequestFeatures) -> RouteDecision | Abstain:
        if "hard" in features.last_user_turn:
            return escalate("hard", score=self._score, threshold=0.5)
        return Abstain(reason="easy", score=0.1, threshold=0.5)


class Slow(Hard):
    """Takes its time, and raises in the end."""

    name = "slow"

    def decide(self, features: RequestFeatures) -> RouteDecision | Abstain:
        time.sleep(0.2)
        raise RuntimeError("planted")
