"""Sends what many requests ask of a store at the same time in one round trip."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from router.errors import StateUnavailable
from router.state.link import Link, finishes
from router.state.operations import Operation

MAX_BATCH = 50
"""Operations in one round trip: Redis is busy with one for up to 0.1 ms, and hears nobody else meanwhile."""
Run = Callable[[Sequence[Operation]], Awaitable[list[Any]]]
"""Carries operations out in order, all in one round trip; one reply each."""


class Batches:
    """An operation leaves at once while nothing is under way, else with the next batch. Under load this saves most of
    the work of a client library, without a load it adds nothing."""

    def __init__(self, link: Link, run: Run, *, timeout_s: float) -> None:
        """
        Args:
            timeout_s: longest time of an operation, its wait for the batch included.
        """
        self._link = link
        self._run = run
        self._timeout_s = timeout_s
        self._waiting: deque[tuple[Operation, asyncio.Future[Any]]] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def do(self, operation: Operation) -> Any:
        """Raises: StateUnavailable."""
        if self._link.failure is not None:
            raise self._link.unavailable()
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, reply))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        try:
            if await finishes(reply, within_s=self._timeout_s):
                return reply.result()
            raise self._link.unavailable()
        finally:
            reply.cancel()  # whoever is gone is not asked for

    async def _send_all(self) -> None:
        try:
            while batch := self._next_batch():
                await self._send(batch)
        finally:
            self._sender = None

    def _next_batch(self) -> list[tuple[Operation, asyncio.Future[Any]]]:
        """Those that somebody still waits for."""
        batch: list[tuple[Operation, asyncio.Future[Any]]] = []
        while self._waiting and len(batch) < MAX_BATCH:
            entry = self._waiting.popleft()
            if not entry[1].done():
                batch.append(entry)
        return batch

    async def _send(self, batch: list[tuple[Operation, asyncio.Future[Any]]]) -> None:
        try:
            run = partial(self._run, [operation for operation, _ in batch])
            replies = await self._link.call(run, timeout_s=2 * self._timeout_s)
        except StateUnavailable as error:
            for _, reply in batch:
                if not reply.done():
                    reply.set_exception(error)
            return
        for (_, reply), value in zip(batch, replies, strict=True):
            if not reply.done():
                reply.set_result(value)
