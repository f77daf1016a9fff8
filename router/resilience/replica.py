"""One endpoint of a model with all that decides whether it gets the next request."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from router.backends import Backend
from router.config.resilience import BreakerConfig, SpillConfig
from router.resilience.breaker import Breaker, State
from router.resilience.deadline import Clock
from router.resilience.load import EngineLoad, TtftAverage
from router.resilience.spill import SpillReason


class Replica:
    """A backend, its breaker and its load."""

    __slots__ = ("_clock", "_engine", "_engine_at_s", "_inflight_then", "_max_age_s", "backend", "breaker", "inflight",
                 "name", "overflow", "ttft")  # fmt: skip

    def __init__(
        self,
        backend: Backend,
        *,
        breaker: BreakerConfig,
        spill: SpillConfig,
        clock: Clock = time.monotonic,
        on_breaker: Callable[[str, State], None] = lambda name, state: None,
    ) -> None:
        self.backend = backend
        self.name = backend.name
        self.breaker = Breaker(breaker, clock, partial(on_breaker, backend.name))
        self.inflight = 0
        """Requests that this process has there."""
        self.ttft = TtftAverage(spill.ttft_half_life_s, clock) if spill.max_ttft_s is not None else None
        self.overflow: SpillReason | None = None
        """Why it gets no more requests for now; kept by `router.resilience.spill`."""
        self._clock = clock
        self._max_age_s = spill.metrics_max_age_s
        self._engine: EngineLoad | None = None
        self._engine_at_s = 0.0
        self._inflight_then = 0

    def observe(self, load: EngineLoad | None) -> None:
        """What the engine just said; None when it could not be asked."""
        if load is not None:
            self._engine, self._engine_at_s, self._inflight_then = load, self._clock(), self.inflight

    @property
    def engine(self) -> EngineLoad | None:
        """What the engine said, while that is fresh."""
        if self._engine is not None and self._clock() - self._engine_at_s <= self._max_age_s:
            return self._engine
        return None

    def requests(self, engine: EngineLoad) -> float:
        """Everybody's requests there: what the engine counted, and what we have sent or finished since."""
        return max(engine.running + engine.waiting + self.inflight - self._inflight_then, 0.0)

    def waiting(self, engine: EngineLoad) -> float:
        """Everybody's requests in its queue. What has come since the engine counted queues up behind others."""
        return max(engine.waiting + self.inflight - self._inflight_then, 0.0) if engine.waiting else 0.0
