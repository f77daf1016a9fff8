"""The student that serves now, with everything that was tuned to it, and how it is replaced under load.

A request takes one `Generation` at its start and uses it to its end: the model that answers, the thresholds that judge
its draft, the version and the student that its record and its headers name belong together, always.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from router.backends import Backend

if TYPE_CHECKING:
    from router.routing import Decider

logger = logging.getLogger(__name__)


class Generation:
    """One student and its policies. Nothing of it changes but the count of the requests that use it."""

    def __init__(self, student: Backend, decider: Decider, bundle_id: str) -> None:
        """
        Args:
            bundle_id: what records and the header `x-router-student` say; before bundles the model's name.
        """
        self.student = student
        self.decider = decider
        self.bundle_id = bundle_id
        self.requests = 0
        self._idle: asyncio.Event | None = None

    def leave(self) -> None:
        """A request that had counted itself in `requests` has ended."""
        self.requests -= 1
        if self._idle is not None and not self.requests:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no request uses it any more; for one that is no longer current."""
        self._idle = asyncio.Event()
        if self.requests:
            await self._idle.wait()


class Generations:
    """The current generation. `async with`: its backend's connections live as long as the block."""

    def __init__(
        self, first: Generation, *, drain_timeout_s: float, on_change: Callable[[Generation], None] = lambda _: None
    ) -> None:
        self.current = first
        self._drain_timeout_s = drain_timeout_s
        self._on_change = on_change

    async def __aenter__(self) -> Self:
        await self.current.student.__aenter__()
        self._on_change(self.current)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.current.student.__aexit__(None, None, None)

    async def install(self, generation: Generation) -> None:
        """New requests use this one from now on. Returns when the old one has no requests and is closed.

        What still runs after the drain time is cut off: its student is about to be stopped. The gateway gives as much
        time as a request may take at all, so that a replacement cuts off none.
        """
        await generation.student.__aenter__()
        old, self.current = self.current, generation
        self._on_change(generation)
        logger.info("student %s serves, in place of %s", generation.bundle_id, old.bundle_id)
        try:
            async with asyncio.timeout(self._drain_timeout_s):
                await old.idle()
        except TimeoutError:
            logger.warning("%d requests to %s outlast the drain time", old.requests, old.bundle_id)
        finally:
            await old.student.__aexit__(None, None, None)
