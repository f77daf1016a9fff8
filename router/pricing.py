"""What an answer cost, and what the teacher would have charged for the same tokens."""

from __future__ import annotations

from typing import NamedTuple

from policies.record import Usage
from router.config import BackendConfig


class Price(NamedTuple):
    """USD per million tokens."""

    input_usd: float
    output_usd: float

    def cost_usd(self, usage: Usage) -> float:
        return (usage.prompt_tokens * self.input_usd + usage.completion_tokens * self.output_usd) / 1e6


def price_of(config: BackendConfig) -> Price | None:
    """None when either price is unknown: cost is then unreported, never 0."""
    if config.price_usd_per_1m_input_tokens is None or config.price_usd_per_1m_output_tokens is None:
        return None
    return Price(config.price_usd_per_1m_input_tokens, config.price_usd_per_1m_output_tokens)
