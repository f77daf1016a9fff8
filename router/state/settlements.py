"""Settlements that must not get lost while the store is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from router.errors import StateUnavailable
from router.state.batches import MAX_BATCH, Batches, Run
from router.state.ledger import SETTLED_S
from router.state.link import PROBE_INTERVAL_S, Link
from router.state.operations import Operation, Settle

logger = logging.getLogger(__name__)

MAX_WAITING = 20_000
REPEAT_WITHIN_S = SETTLED_S / 2
"""A settlement whose answer was lost may have been carried out; the store remembers that for `SETTLED_S`."""


@dataclass(slots=True)
class Waiting:
    settlement: Settle
    sent_s: float | None
    """When it may have reached the store for the first time."""


class Settlements:
    """Delivers settlements, those that fail when the store is back."""

    def __init__(self, link: Link, batches: Batches, run: Run, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._batches = batches
        self._run = run
        self._clock = clock
        self._waiting: deque[Waiting] = deque(maxlen=MAX_WAITING)
        self._delivery: asyncio.Task[None] | None = None

    async def settle(self, settlement: Settle) -> None:
        """Returns within the bound of a call; does not raise."""
        reachable = self._link.failure is None
        started_s = self._clock()
        try:
            await self._batches.do(settlement)
        except StateUnavailable:
            if len(self._waiting) == MAX_WAITING:
                logger.warning("a settlement is lost: %d wait for the shared state", MAX_WAITING)
            self._waiting.append(Waiting(settlement, started_s if reachable else None))
            if self._delivery is None:
                self._delivery = asyncio.create_task(self._deliver_when_back())

    async def stop(self) -> None:
        """Deliver what waits if that is possible at once; the rest is lost with the process."""
        if self._delivery is not None:
            self._delivery.cancel()
            with suppress(asyncio.CancelledError):
                await self._delivery
        await self._deliver()
        if self._waiting:
            logger.warning("%d settlements are lost: the shared state is away", len(self._waiting))

    async def _deliver_when_back(self) -> None:
        while self._waiting:
            await asyncio.sleep(PROBE_INTERVAL_S)
            if self._link.failure is None:
                await self._deliver()
        self._delivery = None

    async def _deliver(self) -> None:
        """As much as the store takes."""
        while chunk := [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]:
            now_s = self._clock()
            known = [it for it in chunk if it.sent_s is None or now_s - it.sent_s < REPEAT_WITHIN_S]
            if len(known) < len(chunk):
                logger.warning("%d settlements may be lost: their answers came too late", len(chunk) - len(known))
            operations: Sequence[Operation] = [it.settlement for it in known]
            try:
                await self._link.call(lambda operations=operations: self._run(operations))  # type: ignore[misc]
            except StateUnavailable:
                self._waiting.extendleft(Waiting(it.settlement, it.sent_s or now_s) for it in reversed(known))
                return
