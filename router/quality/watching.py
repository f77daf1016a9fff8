"""What watches quality in a gateway beside the shadows: drift detection and the regression set, as configured."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from policies.record import DecisionRecord, ShadowRecord
from router.config import Config
from router.generations import Generations
from router.metrics import Metrics
from router.quality.certificates import Certificates
from router.quality.drift import DriftWatch
from router.quality.regression import Regression, Runner
from router.quality.shared_book import FILE as BOOK_FILE
from router.quality.shared_book import SharedBook
from router.request_state import RequestState
from router.resilience.pool import Pool
from router.state.base import Store


class QualityWatch:
    """`async with`: it watches for as long as the block."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str] = os.environ,
        *,
        teacher: Pool,
        generations: Generations,
        store: Store,
        metrics: Metrics,
    ) -> None:
        """
        Args:
            teacher: the first one.
        """
        quality, folder = config.quality, Path(config.admin.dir)
        self._tasks: list[asyncio.Task[None]] = []

        def student() -> str:
            return generations.current.bundle_id

        self.drift: DriftWatch | None = None
        if quality.drift.enabled and config.log.dir:
            self.drift = DriftWatch(quality.drift, store=store, metrics=metrics, folder=folder, student=student)
        self.certificates = Certificates(
            generations,
            metrics,
            teacher=config.teacher.model,
            monitor=lambda: self.drift.monitor if self.drift is not None else None,
            book=SharedBook(store, folder / BOOK_FILE),
        )
        self.regression: Regression | None = None
        if quality.regression is not None:
            runner = Runner(
                quality.regression,
                generations=generations,
                teacher=teacher,
                metrics=metrics,
                registry=config.student.registry,
                environ=environ,
            )
            self.regression = Regression(
                quality.regression, runner, store=store, metrics=metrics, folder=folder, student=student
            )

    def observe(self, state: RequestState, record: DecisionRecord) -> None:
        """A request was answered, and its record is in the log. Returns at once."""
        if self.drift is not None:
            embedding = state.evaluation.features.signals.prompt_embedding if state.evaluation is not None else None
            self.drift.observe(record, embedding)

    def observe_shadow(self, record: ShadowRecord) -> None:
        """Both answers to a request are graded."""
        if self.drift is not None:
            self.drift.observe_shadow(record)

    async def __aenter__(self) -> Self:
        await self.certificates.start()
        self._start(self.certificates.run())
        for part in (self.drift, self.regression):
            if part is not None:
                self._start(part.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))
