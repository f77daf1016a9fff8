"""What a parent and its workers tell each other: JSON lines over a socket pair, one question at a time."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from policies.bundle import Bundle

MAX_LINE_BYTES = 2**20


class Install(msgspec.Struct, frozen=True, tag="install"):
    """To a worker: this student answers new requests from now on. Answered by `Installed`."""

    bundle: Bundle
    folder: str
    base_url: str

    @property
    def path(self) -> Path:
        return Path(self.folder)


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """From a worker: it accepts connections."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """From a worker, before it ends: the configuration cannot be used."""

    problem: str


class Installed(msgspec.Struct, frozen=True, tag="installed"):
    """From a worker: nothing uses the former student any more."""

    problem: str | None = None
    """Why the bundle cannot be used; the former one goes on serving."""


ToWorker = Install
FromWorker = Ready | Refused | Installed


def refuse(end: socket.socket, problem: str) -> None:
    """A worker's last words, before it has an event loop. Takes the socket over."""
    with end, suppress(OSError):  # the parent may be gone
        end.sendall(msgspec.json.encode(Refused(problem)) + b"\n")


class Line:
    """One end of the socket pair. The other end's death is the end of the lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """Takes the socket over."""
        reader, writer = await asyncio.open_connection(sock=end, limit=MAX_LINE_BYTES)
        return cls(reader, writer)

    async def tell(self, message: ToWorker | FromWorker) -> None:
        """Raises: ConnectionError: the other end is gone."""
        self._writer.write(msgspec.json.encode(message) + b"\n")
        await self._writer.drain()

    async def next(self) -> bytes | None:
        """The next line; None at the end."""
        try:
            return await self._reader.readline() or None
        except ConnectionError:
            return None

    def close(self) -> None:
        self._writer.close()
