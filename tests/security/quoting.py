"""A policy whose errors quote the prompt: `type = "tests.security.quoting:Quoting"`."""

from __future__ import annotations

from policies.base import RequestFeatures, RouteDecision


class Quoting:
    """Raises, with content in the message."""

    name = "quoting"
    reasons = frozenset[str]()

    def decide(self, features: RequestFeatures) -> RouteDecision:
        raise ValueError(f"no rule for {features.last_user_turn}")
