"""What an answer costs: by a price list for tokens, or by the time that a machine of one's own spent on it.

The two are never added up for one model. A model with token prices costs what the list says; a student that has only
`machine_usd_per_hour` costs its machine's time. Where a student has both, records hold both: `cost_usd` by the list,
`machine_usd` as measured.
"""

from __future__ import annotations

from typing import NamedTuple

from policies.base import RequestFeatures
from policies.record import DecisionRecord, Usage
from router.config import BackendConfig


class Price(NamedTuple):
    """USD per million tokens."""

    input_usd: float
    output_usd: float
    cached_input_usd: float | None = None
    """None: as other input. So too the next one."""
    cache_write_usd: float | None = None
    reasoning_usd: float | None = None
    """None: as other output."""

    def cost_usd(self, usage: Usage) -> float:
        """`Usage` counts cached tokens and cache writes in the prompt, and reasoning in the completion."""
        usd = usage.prompt_tokens * self.input_usd + usage.completion_tokens * self.output_usd
        if self.cached_input_usd is not None and usage.cached_tokens:
            cached = min(usage.cached_tokens, usage.prompt_tokens)
            usd += cached * (self.cached_input_usd - self.input_usd)
        if self.cache_write_usd is not None and usage.cache_write_tokens:
            written = min(usage.cache_write_tokens, max(usage.prompt_tokens - usage.cached_tokens, 0))
            usd += written * (self.cache_write_usd - self.input_usd)
        if self.reasoning_usd is not None and usage.reasoning_tokens:
            reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
            usd += reasoning * (self.reasoning_usd - self.output_usd)
        return max(usd, 0.0) / 1e6  # prices of 0 leave a rounding error, which must not become a credit


def price_of(config: BackendConfig) -> Price | None:
    """None when the price of input or output is unknown: cost is then unreported, never 0."""
    if config.price_usd_per_1m_input_tokens is None or config.price_usd_per_1m_output_tokens is None:
        return None
    return Price(
        config.price_usd_per_1m_input_tokens,
        config.price_usd_per_1m_output_tokens,
        config.price_usd_per_1m_cached_input_tokens,
        config.price_usd_per_1m_cache_write_tokens,
        config.price_usd_per_1m_reasoning_tokens,
    )


def students_part_usd(record: DecisionRecord) -> float | None:
    """What the student's work cost beside an answer that is not its own; None: it had none, or its cost is unknown."""
    if record.machine_priced:
        return record.machine_usd
    return record.draft.cost_usd if record.draft is not None else None


def expected_usage(features: RequestFeatures, choices: int) -> Usage:
    """What a request may use at most, as far as can be told before it is answered."""
    completion_tokens = features.requested_output_tokens * choices
    return Usage(prompt_tokens=features.approx_prompt_tokens, completion_tokens=completion_tokens)
