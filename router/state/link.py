"""The way to a store in another process: every call is bounded, and while the store is away nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self, TypeVar

from router.errors import StateUnavailable

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
PROBE_INTERVAL_S = 0.2
GRACE_TURNS = 10
"""Of the event loop, for a reply that came in time while the loop was busy with something else."""


class Link:
    """Guards the calls of a store.

    A call that fails starts the recovery: the store is probed at once, and calls that come meanwhile wait for it within
    their own bound, so that one lost connection is hardly noticed. When the probe fails as well, the link is down:
    calls fail at once, and the store is probed every `PROBE_INTERVAL_S` until it answers.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[object]],
        *,
        timeout_s: float,
        reason_of: Callable[[Exception], str | None],
        on_change: Callable[[bool], None],
    ) -> None:
        """
        Args:
            probe: connects, bounded in time by itself, and raises when the store cannot be used.
            timeout_s: longest time of a call.
            reason_of: what an error means, in words without addresses or secrets; None for a fault of ours.
            on_change: told whether the store can be reached.
        """
        self._probe = probe
        self._timeout_s = timeout_s
        self._reason_of = reason_of
        self._on_change = on_change
        self._up = asyncio.Event()
        self._recovery: asyncio.Task[None] | None = None
        self.failure: str | None = "not connected yet"

    async def __aenter__(self) -> Self:
        """Returns after the first probe, whatever it says."""
        try:
            await self._probe()
        except Exception as exc:  # noqa: BLE001 - a client library may raise anything; callers get one error
            self._is_down(self._describe(exc))
            self._recover(after_s=PROBE_INTERVAL_S)
        else:
            self._is_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
            with suppress(asyncio.CancelledError):
                await self._recovery

    async def call(self, function: Callable[[], Awaitable[Result]], *, timeout_s: float | None = None) -> Result:
        """Raises: StateUnavailable.

        Args:
            timeout_s: instead of the link's own.
        """
        if self.failure is not None:
            raise self.unavailable()
        task = asyncio.create_task(self._when_up(function))
        task.add_done_callback(_look_at)
        try:
            if await finishes(task, within_s=timeout_s or self._timeout_s):
                return task.result()
            raise TimeoutError
        except Exception as exc:
            reason = self._describe(exc)
            self._recover()
            raise StateUnavailable(f"The shared state cannot be used: {reason}.") from exc
        finally:
            task.cancel()

    async def _when_up(self, function: Callable[[], Awaitable[Result]]) -> Result:
        await self._up.wait()
        return await function()

    def unavailable(self) -> StateUnavailable:
        return StateUnavailable(f"The shared state cannot be used: {self.failure or 'timeout'}.")

    def _recover(self, after_s: float = 0.0) -> None:
        if self._recovery is None:
            self._up.clear()
            self._recovery = asyncio.create_task(self._recovering(after_s))

    async def _recovering(self, after_s: float) -> None:
        while True:
            await asyncio.sleep(after_s)
            try:
                await self._probe()
            except Exception as exc:  # noqa: BLE001 - as above: probing goes on whatever the library raises
                self._is_down(self._describe(exc))
                after_s = PROBE_INTERVAL_S
            else:
                self._recovery = None
                self._is_up()
                return

    def _is_down(self, reason: str) -> None:
        if self.failure != reason:
            logger.warning("the shared state cannot be used: %s", reason)
        self.failure = reason
        self._on_change(False)

    def _is_up(self) -> None:
        if self.failure is not None:
            logger.info("the shared state can be used")
        self.failure = None
        self._up.set()
        self._on_change(True)

    def _describe(self, error: Exception) -> str:
        reason = "timeout" if isinstance(error, TimeoutError) else self._reason_of(error)
        if reason is None:
            logger.error("a call of the shared state failed inside the gateway", exc_info=error)
            return "internal error"
        return reason


async def finishes(future: asyncio.Future[Any], *, within_s: float) -> bool:
    """Whether it has a result or an error in time."""
    await asyncio.wait((future,), timeout=within_s)
    for _ in range(GRACE_TURNS):
        if future.done():
            return True
        await asyncio.sleep(0)
    return False


def _look_at(task: asyncio.Task[Any]) -> None:
    """Nobody may wait for a call any more that was given up; asyncio would complain about its error."""
    if not task.cancelled():
        task.exception()
