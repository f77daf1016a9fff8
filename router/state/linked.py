"""`Store` on top of a wire to another process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol, Self

from router.errors import VersionConflict
from router.state.base import HISTORY_LENGTH, Adjust, Claim, Document, Verdict
from router.state.batches import Batches
from router.state.link import Link
from router.state.operations import ANY_VERSION, Admit, Operation, Renew, Settle, Write, verdict_from_raw
from router.state.settlements import Settlements
from router.state.watching import watch

NOTHING_CLAIMED = Verdict(True, None, 0.0, (), ())


class Wire(Protocol):
    """What the stores differ in. Its methods may raise anything and take any time: the link bounds and translates."""

    async def probe(self) -> None:
        """Connect anew if need be, and see whether the store takes writes. Bounded in time by itself."""

    def reason_of(self, error: Exception) -> str | None:
        """What an error means, without addresses and secrets; None for one that the wire does not know."""

    async def run(self, operations: Sequence[Operation]) -> list[Any]:
        """Carry them out in order, in one round trip; one reply each."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes, ttl_s: float) -> None: ...

    async def read(self, name: str) -> Document | None: ...

    async def history(self, name: str, limit: int) -> list[Document]: ...

    async def close(self) -> None: ...


class LinkedStore:
    """An async context manager; entering it does not fail when the store is away."""

    def __init__(self, wire: Wire, *, timeout_s: float, on_change: Callable[[bool], None] = lambda _: None) -> None:
        """
        Args:
            timeout_s: longest time of any call.
            on_change: told whether the store can be reached.
        """
        self._wire = wire
        self._link = Link(wire.probe, timeout_s=timeout_s, reason_of=wire.reason_of, on_change=on_change)
        self._batches = Batches(self._link, wire.run, timeout_s=timeout_s)
        self._settlements = Settlements(self._link, self._batches, wire.run)
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._running.push_async_callback(self._wire.close)
        await self._running.enter_async_context(self._link)
        self._running.push_async_callback(self._settlements.stop)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()

    @property
    def failure(self) -> str | None:
        return self._link.failure

    def admit_at_once(self, claims: Sequence[Claim], *, holder: str) -> Verdict | None:
        return None

    def settle_at_once(self, adjustments: Sequence[Adjust], *, holder: str) -> bool:
        return False

    async def admit(self, claims: Sequence[Claim], *, holder: str) -> Verdict:
        if not claims:
            return NOTHING_CLAIMED
        return verdict_from_raw(await self._batches.do(Admit(holder, tuple(claims))))

    async def settle(self, adjustments: Sequence[Adjust], *, holder: str) -> None:
        if adjustments:
            await self._settlements.settle(Settle(holder, tuple(adjustments)))

    async def renew(self, holders: Sequence[str]) -> None:
        if holders:
            await self._batches.do(Renew(tuple(holders)))

    async def get(self, key: str) -> bytes | None:
        return await self._link.call(lambda: self._wire.get(key))

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        await self._link.call(lambda: self._wire.put(key, value, ttl_s))

    async def read_document(self, name: str) -> Document | None:
        return await self._link.call(lambda: self._wire.read(name))

    async def write_document(self, name: str, content: bytes, *, expected_version: int | None) -> Document:
        expected = ANY_VERSION if expected_version is None else expected_version
        written, version, written_s = await self._batches.do(Write(name, content, expected))
        if not written:
            raise VersionConflict(name, expected_version=expected, current_version=version)
        return Document(name, version, content, float(written_s))

    async def document_history(self, name: str, *, limit: int = HISTORY_LENGTH) -> list[Document]:
        return await self._link.call(lambda: self._wire.history(name, limit))

    def watch(self, name: str) -> AsyncIterator[Document]:
        return watch(self.read_document, name)
