"""One connection to a backend, and the answer that arrives on it: HTTP/1.1 with any framing, and backpressure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools

Headers = list[tuple[bytes, bytes]]
Sink = Callable[[bytes], bool]
"""Takes bytes of a body in the moment in which they arrive; False: it has not taken these."""

MAX_BUFFERED_BYTES = 256 * 1024
"""What a connection reads ahead of its consumer; then the socket is left alone."""
MAX_HEADER_BYTES = 64 * 1024
ONE_WRITE_BYTES = 64 * 1024
"""Up to this size head and body are joined, so that they leave in one segment."""


class HttpError(Exception):
    """The answer cannot be had.

    Attributes:
        connected: False when no connection could be opened.
        retriable: a kept-alive connection turned out to be closed before a byte of the answer came.
    """

    def __init__(self, message: str, *, connected: bool = True, retriable: bool = False) -> None:
        super().__init__(message)
        self.connected = connected
        self.retriable = retriable


class Response:
    """One answer. `read` gives its body as it arrives; `close` gives up what has not come yet."""

    __slots__ = ("_buffered", "_chunks", "_connection", "_error", "_waiter", "ended", "headers", "sink", "status")

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: Headers = []
        self.ended = False
        self._connection = connection
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._error: HttpError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.sink: Sink | None = None
        """Who is offered what arrives; see `divert`."""

    async def read(self) -> bytes:
        """All bytes that have arrived, at least one; empty at the end. Raises: HttpError."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self.ended:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        if self._buffered > MAX_BUFFERED_BYTES:
            self._connection.resume()
        self._buffered = 0
        return data

    def divert(self, sink: Sink) -> None:
        """Offer what arrives to `sink` first, from now on until it does not take something: that and the rest are
        for `read`. Nothing is offered behind bytes that wait to be read."""
        if not self._chunks:
            self.sink = sink

    @property
    def finished(self) -> bool:
        """Whether all of the answer has been read."""
        return self.ended and not self._chunks

    def unread(self) -> bytes:
        """What has arrived behind the last `read`; it stays there."""
        return b"".join(self._chunks)

    def close(self) -> None:
        """Close the connection unless the answer has come to its end."""
        if not self.ended:
            self._connection.abort()

    async def started(self) -> None:
        """Wait for the status and the headers. Raises: HttpError."""
        while not self.status:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # Called by the connection.

    def begin(self, status: int, headers: Headers) -> None:
        self.headers = headers
        self.status = status
        self._wake()

    def feed(self, data: bytes) -> bool:
        """Returns False when the consumer lags behind and reading should pause."""
        self._chunks.append(data)
        self._buffered += len(data)
        self._wake()
        return self._buffered <= MAX_BUFFERED_BYTES

    def end(self) -> None:
        self.ended = True
        self._wake()

    def fail(self, error: HttpError) -> None:
        self._error = error
        self._wake()


class Pool(Protocol):
    """Who keeps a connection."""

    def give_back(self, connection: Connection) -> None:
        """Its answer has ended and it can be used again."""

    def lost(self, connection: Connection) -> None:
        """It is closed."""


class Connection(asyncio.Protocol):
    """One connection, with one request under way at most. It calls `pool` when it can be used again or is gone."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._headers: Headers = []
        self._header_bytes = 0
        self._framed = False
        self._paused = False
        self._reused = False
        self.idle_since_s = 0.0
        self.in_use = True

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes) -> Response:
        response = self._response = Response(self)
        self._headers, self._header_bytes, self._framed = [], 0, False
        if not self.open:
            self._fail("the connection was closed", retriable=True)
            return response
        transport = cast(asyncio.Transport, self._transport)
        if len(body) <= ONE_WRITE_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        return response

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def resume(self) -> None:
        if self._paused and self.open:
            self._paused = False
            cast(asyncio.Transport, self._transport).resume_reading()

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses of it

    def data_received(self, data: bytes) -> None:
        if self._response is None:  # nobody asked: what comes now must not become the answer to the next request
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, httptools.HttpParserCallbackError):
            self._fail("the answer is not HTTP")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        response = self._response
        if response is not None and response.status and not self._framed and exc is None:
            self._response = None
            response.end()  # an answer without a length ends with its connection
        else:
            retriable = self._reused and response is not None and not response.status and not self._headers
            self._fail("the connection was closed before the end of the answer", retriable=retriable)
        self._pool.lost(self)

    # httptools' callbacks

    def on_message_begin(self) -> None:
        if self._response is None:  # the beginning of a second answer behind the first one
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise ValueError("too many headers")
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue and its like come before the answer
            self._headers = []
        elif self._response is not None:
            self._response.begin(status, self._headers)

    def on_body(self, data: bytes) -> None:
        response = self._response
        if response is None:
            return
        if response.sink is not None:
            if response.sink(data):
                return
            response.sink = None
        if not response.feed(data) and self.open:
            self._paused = True
            cast(asyncio.Transport, self._transport).pause_reading()

    def on_message_complete(self) -> None:
        response = self._response
        if response is None or not response.status:
            return
        self._response = None
        response.end()
        if self._parser.should_keep_alive() and self.open:
            self._reused = True
            self.resume()
            self._pool.give_back(self)
        else:
            self.abort()

    def _fail(self, message: str, *, retriable: bool = False) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.fail(HttpError(message, retriable=retriable))
