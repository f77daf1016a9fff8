"""Retries that cannot become a storm: a budget in proportion to the traffic, and random waits."""

from __future__ import annotations

from random import Random

from router.config.resilience import RetryConfig


class RetryBudget:
    """A token bucket: each request pays in `ratio`, each retry takes 1 out. At no time have there been more retries
    than `burst + ratio x requests`."""

    __slots__ = ("_burst", "_ratio", "tokens")

    def __init__(self, ratio: float, burst: float) -> None:
        self._ratio = ratio
        self._burst = burst
        self.tokens = float(burst)

    def deposit(self) -> None:
        """A request, other than a retry, goes to the backend."""
        self.tokens = min(self.tokens + self._ratio, max(self._burst, 1.0))

    def withdraw(self) -> bool:
        """Take a retry out; False when there is none left."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


def backoff_s(config: RetryConfig, retry: int, random: Random) -> float:
    """The wait before the n-th retry (from 1): uniform between 0 and a limit that doubles ("full jitter")."""
    return random.uniform(0.0, min(config.max_delay_s, config.base_delay_s * 2.0 ** (retry - 1)))


def polite_wait_s(retry_after_s: float, random: Random) -> float:
    """A Retry-After with up to a tenth on top: whoever got the same answer must not come back at the same moment."""
    return retry_after_s * (1.0 + 0.1 * random.random())
