"""Serves a store in memory to other processes of this machine: to the workers of one gateway."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec

from router.errors import VersionConflict
from router.state.base import Store
from router.state.operations import (
    ANY_VERSION,
    Admit,
    Get,
    History,
    Probe,
    Put,
    Read,
    Renew,
    Request,
    Settle,
    Write,
    verdict_to_raw,
)

logger = logging.getLogger(__name__)

LENGTH_BYTES = 4
"""Before every frame, big-endian."""


class StoreServer:
    """An async context manager. Whoever reaches the socket may do everything: it belongs into a private folder."""

    def __init__(self, store: Store, path: Path) -> None:
        self._store = store
        self._path = path
        self._decoder = msgspec.msgpack.Decoder(list[Request])
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._connected, self._path)
        self._path.chmod(0o600)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        self._path.unlink(missing_ok=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this in a task
        self._connections.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await self._answer(await read_frame(reader), writer)
        except msgspec.MsgspecError:
            logger.exception("a worker speaks another version of the protocol; it is disconnected")
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, frame: bytes, writer: asyncio.StreamWriter) -> None:
        replies = [await self._do(request) for request in self._decoder.decode(frame)]
        write_frame(writer, msgspec.msgpack.encode(replies))
        await writer.drain()

    async def _do(self, request: Request) -> Any:  # noqa: PLR0911 - one line a message
        store = self._store
        match request:
            case Admit(holder, claims):
                return verdict_to_raw(await store.admit(claims, holder=holder))
            case Settle(holder, adjustments):
                return await store.settle(adjustments, holder=holder)
            case Renew(holders):
                return await store.renew(holders)
            case Get(key):
                return await store.get(key)
            case Put(key, value, ttl_s):
                return await store.put(key, value, ttl_s=ttl_s)
            case Read(name):
                return await store.read_document(name)
            case History(name, limit):
                return await store.document_history(name, limit=limit)
            case Write():
                return await self._write(request)
            case Probe():
                return True

    async def _write(self, request: Write) -> tuple[bool, int, float]:
        expected = None if request.expected_version == ANY_VERSION else request.expected_version
        try:
            document = await self._store.write_document(request.name, request.content, expected_version=expected)
        except VersionConflict as conflict:
            return False, conflict.current_version, 0.0
        return True, document.version, document.written_s


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Raises: asyncio.IncompleteReadError at the end of the connection."""
    return await reader.readexactly(int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big"))


def write_frame(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(len(data).to_bytes(LENGTH_BYTES, "big") + data)
