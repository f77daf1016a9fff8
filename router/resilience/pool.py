"""The replicas of one model, seen from outside as one thing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from random import Random
from types import TracebackType
from typing import Self

from router.backends import Backend, Role
from router.config import BackendConfig, StudentConfig
from router.config.resilience import ResilienceConfig, SpillConfig, Spread
from router.pricing import Price
from router.resilience.breaker import State
from router.resilience.deadline import Clock
from router.resilience.hedge import SlowerThan
from router.resilience.replica import Replica
from router.resilience.retry import RetryBudget
from router.resilience.spill import SpillLimits, SpillReason
from router.resilience.spread import Affine, affinity, choose

logger = logging.getLogger(__name__)

OnBreaker = Callable[[str, State], None]


class Pool:
    """One model on one or more endpoints. `async with`: their connections live as long as the block."""

    def __init__(
        self,
        backends: Sequence[Backend],
        config: ResilienceConfig,
        *,
        spread: Spread = "session",
        on_breaker: OnBreaker = lambda name, state: None,
        random: Random | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """
        Args:
            backends: at least one; they differ in their address and key only.
            on_breaker: called with a replica's name and its breaker's state, at the beginning and at every change.
            random: for the spread.
        """
        first = backends[0]
        self.route: Role = first.route
        self.config: BackendConfig = first.config
        self.price: Price | None = first.price
        self.metered = any(backend.machine is not None for backend in backends)
        """Whether the time of its machines is priced."""
        self.exists = first.exists
        """False for a student that is still to be promoted or loaded."""
        spill = config.spill if first.route == "student" else SpillConfig()
        self.replicas = [
            Replica(b, breaker=config.breaker, spill=spill, clock=clock, on_breaker=self._breaker_changed)
            for b in backends
        ]
        self._on_breaker = on_breaker
        self.slower: dict[bool, SlowerThan] = {}
        """When a request counts as slow, for streams (True) and plain answers; empty without hedging."""
        if config.hedging.enabled:
            self.slower = {stream: SlowerThan(config.hedging) for stream in (True, False)}
        self.budget = RetryBudget(config.retries.budget_ratio, config.retries.budget_burst)
        self._spill = SpillLimits(spill)
        self._spread = spread
        self._supervised = isinstance(first.config, StudentConfig) and first.config.vllm is not None
        """We started it: until it answers for the first time it is loading, and nobody has to find that out."""
        self._random = random or Random()  # noqa: S311 - chooses among replicas

    # What they have in common

    @property
    def reachable(self) -> bool | None:
        """Whether the last probe reached one of them; None before the first probe."""
        seen = [replica.backend.reachable for replica in self.replicas]
        return True if True in seen else None if None in seen else False

    @property
    def window_tokens(self) -> int | None:
        """The smallest of those that are known; None while none is."""
        if len(self.replicas) == 1:
            return self.replicas[0].backend.window_tokens
        known = [r.backend.window_tokens for r in self.replicas if r.backend.window_tokens is not None]
        return min(known, default=None)

    @property
    def usable(self) -> bool:
        """Whether a replica would take a request now."""
        return any(replica.breaker.allows() for replica in self.replicas)

    @property
    def needs_engine_load(self) -> bool:
        """Whether the engines' own metrics have to be read."""
        return len(self.replicas) > 1 or self._spill.needs_engine

    async def __aenter__(self) -> Self:
        for replica in self.replicas:
            await replica.backend.__aenter__()
            self._on_breaker(replica.name, replica.breaker.state)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for replica in self.replicas:
            await replica.backend.__aexit__(None, None, None)

    def _breaker_changed(self, name: str, state: State) -> None:
        if state == "open":
            logger.warning("the %s keeps failing and gets no requests for now", name)
        elif state == "closed":
            logger.info("the %s works again", name)
        self._on_breaker(name, state)

    # The next request

    def choose(self, request: Affine, tried: Collection[Replica] = ()) -> Replica | None:
        """The replica for a request; None when every one that has not been tried is ejected.

        Args:
            tried: replicas that have failed this request.
        """
        if len(self.replicas) == 1:
            only = self.replicas[0]
            return only if only.breaker.allows() and only not in tried else None
        usable = [r for r in self.replicas if r.breaker.allows() and r not in tried]
        if self._spill.any:
            usable = [r for r in usable if self._spill.overflow(r) is None] or usable
        if len(usable) < 2:
            return usable[0] if usable else None
        return choose(usable, affinity(self._spread, request), self._random)

    def overflow(self) -> SpillReason | None:
        """Why the teacher should answer instead: no replica that could answer has room."""
        if not self.exists or self._loads_still():
            return "student_loading"
        if not self._spill.any:
            return None
        reason: SpillReason | None = None
        for replica in self.replicas:
            if replica.breaker.allows():
                reason = self._spill.overflow(replica)
                if reason is None:
                    return None
        return reason

    def _loads_still(self) -> bool:
        return self._supervised and self.reachable is False and not self.replicas[0].backend.was_reachable

    def reopens_in_s(self) -> float:
        """Time until the first ejected replica is tried again."""
        return min(replica.breaker.reopens_in_s() for replica in self.replicas)
