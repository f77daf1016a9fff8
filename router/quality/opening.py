"""Makes what measures quality in a gateway, as configured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Self

from policies.record import DecisionRecord
from router.config import Config, ConfigError
from router.encoder import Encoder, EncoderUnavailable
from router.generations import Generations
from router.metrics import Metrics
from router.quality.asking import OtherModels
from router.quality.budget import DailyBudget
from router.quality.graders import Graders
from router.quality.judge import Judge
from router.quality.recent import RecentFeedback
from router.quality.shadow import Observer, Shadows
from router.request_state import RequestState
from router.resilience.pool import Pool
from router.state import Store
from router.traffic_log import TrafficLog


class Shadowing:
    """Shadow answers and their grades. `async with`: connections live as long as the block, which ends with a drain."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str] = os.environ,
        *,
        teacher: Pool,
        generations: Generations,
        store: Store,
        log: TrafficLog,
        metrics: Metrics,
        recent: RecentFeedback,
    ) -> None:
        """
        Args:
            teacher: the first one.
        Raises:
            ConfigError.
        """
        quality = config.quality
        self._models = OtherModels(
            quality.shadow,
            teacher=teacher,
            generations=generations,
            budget=DailyBudget(store, "shadow", quality.shadow.budget_usd_per_day),
            max_response_bytes=config.server.max_response_bytes,
            environ=environ,
        )
        judge = None
        if quality.judge is not None:
            budget = DailyBudget(store, "judge", quality.judge.budget_usd_per_day)
            judge = Judge(quality.judge, metrics=metrics, budget=budget, environ=environ)
        self._encoder = _encoder(config)
        self._graders = Graders(quality.graders, judge=judge, encoder=self._encoder)
        self._shadows = Shadows(
            quality.shadow,
            models=self._models,
            graders=self._graders,
            log=log,
            metrics=metrics,
            recent=recent,
        )
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._running.enter_async_context(self._graders)
        await self._running.enter_async_context(self._models)
        self._running.push_async_callback(self._shadows.drain)
        if self._encoder is not None:
            await self._encoder.warm()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()

    def tell(self, observer: Observer) -> None:
        """From now on this is told of every shadow record."""
        self._shadows.observers.append(observer)

    def offer(self, state: RequestState, record: DecisionRecord) -> None:
        """A request was answered, and its record is in the log. Returns at once."""
        self._shadows.offer(state, record)


def _encoder(config: Config) -> Encoder | None:
    """One of its own: grades must not keep the signals of live requests waiting. Raises: ConfigError."""
    if not any(grader.type == "embedding" for grader in config.quality.graders):
        return None
    try:
        return Encoder.load(config.encoder)
    except EncoderUnavailable as exc:
        raise ConfigError("quality.graders", [f"embedding needs the encoder: {exc}"]) from exc
