"""When a student is too busy for another request, so that the teacher answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from router.config.resilience import SpillConfig

if TYPE_CHECKING:
    from router.resilience.replica import Replica

SpillReason = Literal["overflow_queue", "overflow_kv", "overflow_ttft", "student_loading"]


class SpillLimits:
    """The limits of `[resilience.spill]`, with hysteresis: what is over one returns below `return_ratio` of it."""

    __slots__ = ("_config", "any", "needs_engine")

    def __init__(self, config: SpillConfig) -> None:
        self._config = config
        self.needs_engine = config.max_waiting_requests is not None or config.max_kv_usage is not None
        self.any = self.needs_engine or config.max_inflight_requests is not None or config.max_ttft_s is not None

    def overflow(self, replica: Replica) -> SpillReason | None:
        """Why the replica should get no more requests now; None: it may."""
        ratio = 1.0 if replica.overflow is None else self._config.return_ratio
        replica.overflow = self._over(replica, ratio)
        return replica.overflow

    def _over(self, replica: Replica, ratio: float) -> SpillReason | None:
        config, engine = self._config, replica.engine
        if _reached(replica.inflight, config.max_inflight_requests, ratio):
            return "overflow_queue"
        if engine is not None and _reached(replica.waiting(engine), config.max_waiting_requests, ratio):
            return "overflow_queue"
        if engine is not None and _reached(engine.kv_usage, config.max_kv_usage, ratio):
            return "overflow_kv"
        if replica.ttft is not None and _reached(replica.ttft.estimate_s(), config.max_ttft_s, ratio):
            return "overflow_ttft"
        return None


def _reached(value: float | None, limit: float | None, ratio: float) -> bool:
    return value is not None and limit is not None and value >= limit * ratio
