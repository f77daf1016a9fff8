"""A lean HTTP/1.1 client for the hot path: one origin, a pool of kept-alive connections, bodies as they arrive.

It does what a gateway needs and no more: POST with a body in memory, any framing of the answer, backpressure, TLS. A
cancelled or closed answer closes its connection at once, which is what makes a model server stop generating.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from urllib.parse import urlsplit

from router.http_connection import MAX_BUFFERED_BYTES, Connection, Headers, HttpError, Response, Sink

__all__ = ["MAX_BUFFERED_BYTES", "Headers", "HttpClient", "HttpError", "Response", "Sink"]


class HttpClient:
    """Posts to one origin.

    Args:
        base_url: scheme, host, port and the beginning of every path.
        max_connections: more requests wait for one to end.
        keep_alive_s: an idle connection older than this is not used again; to be below the server's own limit.
        tls: for an https URL; default: what the system trusts.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connect_timeout_s: float,
        max_connections: int,
        keep_alive_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or ""
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/").encode("latin-1")
        self._authority = parts.netloc.encode("idna" if not parts.netloc.isascii() else "ascii")
        self._connect_timeout_s = connect_timeout_s
        self._keep_alive_s = keep_alive_s
        self._free = max_connections
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Requests that wait for a connection."""
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._closed = False

    def head(self, path: bytes, headers: Headers) -> bytes:
        """The constant part of a request's head, for `post`."""
        lines = [b"POST %b%b HTTP/1.1" % (self._prefix, path), b"host: " + self._authority]
        lines += [b"%b: %b" % header for header in headers]
        return b"\r\n".join(lines)

    async def post(self, head: bytes, headers: Headers, body: bytes) -> Response:
        """Send a request and wait for the head of its answer.

        Args:
            head: from `head`.
            headers: more of them; names and values must be free of line breaks.
        Raises:
            HttpError. On cancellation the connection is closed.
        """
        more = b"".join([b"\r\n%b: %b" % header for header in headers]) if headers else b""
        whole_head = b"%b%b\r\ncontent-length: %d\r\n\r\n" % (head, more, len(body))
        connection = self._idle_connection() or await self._acquire()
        response = connection.send(whole_head, body)
        try:
            await response.started()
        except BaseException:
            response.close()
            raise
        return response

    async def close(self) -> None:
        """Close every connection and open no other one: the address may belong to somebody else from now on."""
        self._closed = True
        for connection in tuple(self._connections):
            connection.abort()
        await asyncio.sleep(0)  # transports report their end in the next turn of the loop

    def _idle_connection(self) -> Connection | None:
        """One that can be used at once."""
        if self._waiting or not self._free or self._closed:
            return None
        connection = self._newest_idle()
        if connection is not None:
            self._free -= 1
        return connection

    def _newest_idle(self) -> Connection | None:
        oldest_s = asyncio.get_running_loop().time() - self._keep_alive_s
        while self._idle:
            connection = self._idle.pop()
            if connection.open and connection.idle_since_s > oldest_s:
                connection.in_use = True
                return connection
            connection.abort()
        return None

    async def _acquire(self) -> Connection:
        """One connection, perhaps after a wait for its slot. Raises: HttpError."""
        if self._free and not self._waiting:
            self._free -= 1
        else:
            await self._wait_for_slot()
        try:
            if self._closed:
                raise HttpError("the client is closed", connected=False)
            return self._newest_idle() or await self._connect()
        except BaseException:
            self._release()
            raise

    async def _wait_for_slot(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.cancelled():
                with suppress(ValueError):
                    self._waiting.remove(waiter)
            else:  # the slot came in the moment in which it gave up
                self._release()
            raise

    def _release(self) -> None:
        """Give a slot to who waits longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        connection = Connection(self)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await loop.create_connection(lambda: connection, self._host, self._port, ssl=self._tls)
        except TimeoutError as exc:
            raise HttpError(f"no connection within {self._connect_timeout_s:g} s", connected=False) from exc
        except (OSError, ValueError) as exc:
            raise HttpError(type(exc).__name__, connected=False) from exc
        except asyncio.CancelledError:
            connection.in_use = False  # its slot is released by the caller
            connection.abort()
            raise
        self._connections.add(connection)
        return connection

    # Called by connections.

    def give_back(self, connection: Connection) -> None:
        """Its answer has ended and it can be used again."""
        connection.in_use = False
        connection.idle_since_s = asyncio.get_running_loop().time()
        self._idle.append(connection)
        self._release()

    def lost(self, connection: Connection) -> None:
        """It is closed."""
        if connection in self._connections:
            self._connections.discard(connection)
            if connection.in_use:
                self._release()
            elif connection in self._idle:
                self._idle.remove(connection)
