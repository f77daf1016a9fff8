"""Work that one process of all workers and replicas does at a time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from router.errors import StateUnavailable
from router.state.base import Adjust, Slots, Store


class Lease:
    """A slot in the shared state, of which there is one."""

    def __init__(self, store: Store, name: str, *, lease_s: float) -> None:
        """
        Args:
            lease_s: after so long it is free again when its holder has died.
        """
        self._store = store
        self._slot = Slots(name, 1, lease_s)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[bool]:
        """Whether it is ours for as long as the block takes, or another process has it. Raises: StateUnavailable."""
        if self._store.failure is not None:  # the local stand-in would give it to everybody
            raise StateUnavailable(self._store.failure)
        holder = f"lease-{secrets.token_hex(8)}"  # a new one each time: its claims are settled once
        if not (await self._store.admit([self._slot], holder=holder)).admitted:
            yield False
            return
        renewing = asyncio.create_task(self._renew(holder))
        try:
            yield True
        finally:
            renewing.cancel()
            await self._store.settle([Adjust(self._slot)], holder=holder)

    async def _renew(self, holder: str) -> None:
        while True:
            await asyncio.sleep(self._slot.ttl_s / 4)
            await self._store.renew([holder])
