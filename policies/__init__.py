"""Pure routing decisions: features in, a decision out. Nothing here knows HTTP, a clock or a model server."""

from policies.base import (
    Abstain,
    Chunk,
    Policy,
    PolicyConfigError,
    PolicyModel,
    RequestFeatures,
    Route,
    RouteDecision,
    Signal,
    Signals,
    escalate,
)

__all__ = [
    "Abstain",
    "Chunk",
    "Policy",
    "PolicyConfigError",
    "PolicyModel",
    "RequestFeatures",
    "Route",
    "RouteDecision",
    "Signal",
    "Signals",
    "escalate",
]
