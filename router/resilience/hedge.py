"""A second attempt beside a slow first one: the first answer wins, the other attempt is cancelled at once."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from router.config.resilience import HedgingConfig
from router.errors import BackendError

T = TypeVar("T")

HedgeOutcome = Literal["won", "lost", "failed"]
"""The second attempt answered first; the first one did; both failed."""

KEPT = 200
"""Latest times that the quantile is taken of."""
MIN_SAMPLES = 20
"""Before as many are known nothing is hedged: nobody knows what is slow."""


class SlowerThan:
    """The time after which a request counts as slow: a quantile of the latest first answers."""

    __slots__ = ("_config", "_latest", "_sorted")

    def __init__(self, config: HedgingConfig) -> None:
        self._config = config
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, seconds: float) -> None:
        """A first answer took so long."""
        if len(self._latest) == KEPT:
            oldest = self._latest.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._latest.append(seconds)
        insort(self._sorted, seconds)

    def delay_s(self) -> float | None:
        """When to hedge; None: do not."""
        known = len(self._sorted)
        if known < MIN_SAMPLES:
            return None
        index = min(int(self._config.quantile * known), known - 1)
        return max(self._sorted[index], self._config.min_delay_s)


async def race(
    first: Awaitable[T],
    second: Callable[[], Awaitable[T] | None],
    *,
    delay_s: float,
    discard: Callable[[T], None],
    count: Callable[[HedgeOutcome], None],
) -> T:
    """The answer of `first`, or of `second` if that comes earlier.

    Args:
        second: called after the delay, if `first` is not there; returns None when there shall be no hedge.
        discard: for an answer that came at the same moment as the one that is used.
    Raises:
        BackendError: of the first attempt, when none of them answers. On cancellation both are cancelled.
    """
    leading = asyncio.ensure_future(first)
    running: set[asyncio.Future[T]] = {leading}
    hedge: asyncio.Future[T] | None = None
    winner: asyncio.Future[T] | None = None
    try:
        done, _ = await asyncio.wait(running, timeout=delay_s)
        if not done:
            beside = second()
            if beside is not None:
                hedge = asyncio.ensure_future(beside)
                running.add(hedge)
        winner = await _first_answer(leading, hedge)
        if hedge is not None:
            count("won" if winner is hedge else "lost" if winner is leading and not _failed(leading) else "failed")
        return winner.result()
    finally:
        if winner is not None:
            running.discard(winner)
        await _end(running, winner, discard)


async def _first_answer(leading: asyncio.Future[T], hedge: asyncio.Future[T] | None) -> asyncio.Future[T]:
    """The one that has an answer; `leading` when none has."""
    waiting = {attempt for attempt in (leading, hedge) if attempt is not None}
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for attempt in (leading, hedge):
            if attempt in done and attempt is not None and not _failed(attempt):
                return attempt
    return leading


def _failed(attempt: asyncio.Future[T]) -> bool:
    return isinstance(attempt.exception(), BackendError)


async def _end(losers: set[asyncio.Future[T]], winner: asyncio.Future[T] | None, discard: Callable[[T], None]) -> None:
    """Cancel the losers and wait for their end. On cancellation nobody takes the winner's answer any more either."""

    def drop(attempt: asyncio.Future[T]) -> None:
        if not attempt.cancelled() and attempt.exception() is None:
            discard(attempt.result())

    for attempt in losers:
        attempt.add_done_callback(drop)
        attempt.cancel()
    try:
        if losers:
            await asyncio.wait(losers)
    except asyncio.CancelledError:
        if winner is not None:
            drop(winner)
        raise
