"""`long_reasoning`: does the question need several steps of reasoning?"""

from __future__ import annotations

from pydantic import Field

from policies.base import Abstain, PolicyModel, RequestFeatures, RouteDecision, escalate

HIGH_EFFORTS = frozenset({"high", "xhigh", "max"})
LOW_EFFORTS = frozenset({"none", "minimal", "low"})


class LongReasoning(PolicyModel):
    """An explicit `reasoning_effort` decides."""

    escalate_above: float | None = Field(
        None, ge=0.0, le=1.0, description="Score above which the teacher answers; default: that of the weights."
    )

    @property
    def name(self) -> str:
        return "long_reasoning"

    @property
    def reasons(self) -> frozenset[str]:
        return frozenset({"effort_high", "effort_low", "unscored"})

    def decide(self, features: RequestFeatures) -> RouteDecision | Abstain | None:
        effort = (features.reasoning_effort or "").lower()
        if effort in HIGH_EFFORTS:
            return escalate("effort_high")
        if effort in LOW_EFFORTS:
            return Abstain(reason="effort_low")
        return Abstain(reason="unscored")
