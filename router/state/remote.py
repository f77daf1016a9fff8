"""The way from a worker to the store that its parent process serves (`StoreServer`)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from router.state.base import Document
from router.state.operations import Get, History, Operation, Probe, Put, Read, Request
from router.state.server import read_frame, write_frame

PROBE_TIMEOUT_S = 0.5


class SocketWire:
    """`Wire` over one UNIX socket. Frames are answered in order, so a reply belongs to the oldest request."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._pending: deque[asyncio.Future[Any]] = deque()

    async def probe(self) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                if self._writer is None:
                    reader, self._writer = await asyncio.open_unix_connection(self._path)
                    self._reading = asyncio.create_task(self._read(reader))
                await self.run([Probe()])
        except TimeoutError:
            await self.close()  # what was asked on this connection must not pile up
            raise

    def reason_of(self, error: Exception) -> str | None:
        return "the parent process cannot be reached" if isinstance(error, OSError) else None

    async def run(self, operations: Sequence[Operation]) -> list[Any]:
        return await self._ask(operations)

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._ask_one(Get(key))
        return value

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._ask_one(Put(key, value, ttl_s))

    async def read(self, name: str) -> Document | None:
        raw = await self._ask_one(Read(name))
        return None if raw is None else Document(*raw)

    async def history(self, name: str, limit: int) -> list[Document]:
        return [Document(*raw) for raw in await self._ask_one(History(name, limit))]

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading

    async def _ask_one(self, request: Request) -> Any:
        (reply,) = await self._ask([request])
        return reply

    async def _ask(self, requests: Sequence[Request]) -> list[Any]:
        if self._writer is None:
            raise ConnectionResetError
        reply: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._pending.append(reply)
        write_frame(self._writer, msgspec.msgpack.encode(requests))
        return await reply

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hands out replies until the connection ends; those who still wait learn that it has."""
        try:
            with suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    replies = msgspec.msgpack.decode(await read_frame(reader))
                    pending = self._pending.popleft()
                    if not pending.done():  # else its time is over
                        pending.set_result(replies)
        finally:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
            while self._pending:
                pending = self._pending.popleft()
                if not pending.done():
                    pending.set_exception(ConnectionResetError())
