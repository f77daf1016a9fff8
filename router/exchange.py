"""One HTTP exchange on the hot path: reads the body, notices that the client left, sends the answer.

The server's protocol makes it and feeds it (router/protocol.py). It writes to the transport itself: a layer of messages
between the two, as ASGI has it, would cost every request a task, and every event of a stream three calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from router.errors import BodyTooLarge
from router.http_client import Headers

HEARTBEAT = b": waiting for the answer\n\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientGone(Exception):
    """The client closed the connection before it had its answer."""


class Exchange:
    """One request and its response."""

    def __init__(
        self,
        transport: asyncio.Transport,
        flow: FlowControl,
        *,
        headers: Headers,
        date: Headers = [],  # noqa: B006 - never changed
        keep_alive: bool = True,
        chunked: bool = True,
        expects_continue: bool = False,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            flow: of the connection; says when the client reads too slowly.
            date: headers of every response.
            chunked: False for HTTP/1.0, whose responses without a length end with their connection.
            on_end: called behind the last byte.
        """
        self.headers = headers
        self.started = False
        self.client_gone = False
        """The client left while it was watched: the task was cancelled for that."""
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self._transport = transport
        self._flow = flow
        self._date = date
        self._chunked = chunked
        self._frames = False
        """Whether the response goes out in chunks."""
        self._expects_continue = expects_continue
        self._on_end = on_end
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._unread_bytes = 0
        self._whole = False
        self._waiter: asyncio.Future[None] | None = None
        self._watched: asyncio.Task[Any] | None = None
        self._heartbeats: asyncio.Task[None] | None = None

    # Called by the protocol

    def feed(self, data: bytes) -> None:
        """A part of the body has come."""
        self._body.append(data)
        self._body_bytes += len(data)
        self._unread_bytes += len(data)
        if self._unread_bytes > HIGH_WATER_LIMIT:
            self._flow.pause_reading()
        self._wake()

    def complete(self) -> None:
        """The body has come to its end."""
        self._whole = True
        self._wake()

    def disconnect(self) -> None:
        """The client has left, or has sent what cannot be read on."""
        self.disconnected = True
        self._wake()
        if self._watched is not None and not self.response_complete:
            self.client_gone = True
            self._watched.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The request

    def header(self, name: bytes) -> bytes | None:
        for key, value in self.headers:
            if key == name:
                return value
        return None

    async def read_body(self, *, limit_bytes: int) -> bytes:
        """The whole request body.

        Raises:
            BodyTooLarge, ClientGone.
        """
        if not self._whole:
            declared = self.header(b"content-length")
            if declared is not None and declared.isdigit() and int(declared) > limit_bytes:
                raise BodyTooLarge(limit_bytes)
            if self._expects_continue and not self._transport.is_closing():
                self._transport.write(CONTINUE)
        while True:
            if self.disconnected:
                raise ClientGone
            if self._body_bytes > limit_bytes:
                raise BodyTooLarge(limit_bytes)
            self._unread_bytes = 0
            self._flow.resume_reading()  # also behind the end of the body: else nobody sees the client leave
            if self._whole:
                body, self._body = self._body, []
                return body[0] if len(body) == 1 else b"".join(body)
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def watch(self) -> None:
        """From now on a client that leaves cancels the current task, and `client_gone` says so."""
        self._watched = asyncio.current_task()
        if self.disconnected:
            self.disconnect()

    def stop_watching(self) -> None:
        """The answer is there: a client that leaves now cancels nothing."""
        self._watched = None

    # Heartbeats

    def begin_heartbeats(self, interval_s: float, headers: Callable[[], Headers]) -> None:
        """Comments for a client, or a proxy before it, that gives up on a silent stream.

        Until the answer begins or the request ends: after each interval one comment, before the first one the head of
        a stream. Then the status is 200 whatever follows, and errors are events.
        """
        self._heartbeats = asyncio.create_task(self._beat(interval_s, headers))

    async def _beat(self, interval_s: float, headers: Callable[[], Headers]) -> None:
        while True:
            await asyncio.sleep(interval_s)
            if not self.started:
                self._send_head(200, headers())
            await self.write(HEARTBEAT)

    @property
    def has_heartbeats(self) -> bool:
        return self._heartbeats is not None

    async def stop_heartbeats(self) -> None:
        """To be called before anything else is sent."""
        task, self._heartbeats = self._heartbeats, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})  # not `await task`: the caller's own cancellation must stay one

    # The response

    async def start(self, status: int, headers: Headers) -> None:
        """The head of the response; nothing, where heartbeats have sent it."""
        if self._heartbeats is not None:
            await self.stop_heartbeats()
        if not self.started:
            self._send_head(status, headers)

    async def write(self, data: bytes) -> None:
        """Part of the body. Waits while the client reads slowly: this is the stream's backpressure."""
        while not self.put(data):
            await self._flow.drain()

    def put(self, data: bytes) -> bool:
        """`write` without the wait; False: the client reads too slowly, and nothing was sent."""
        if self.disconnected or not data:
            return True
        if self._flow.write_paused:
            return False
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._frames else data)
        return True

    async def end(self, data: bytes = b"") -> None:
        """The last part of the body."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        self._watched = None
        if self._frames:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        self._send_last(data)

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole response."""
        if self._heartbeats is not None:
            await self.stop_heartbeats()
        if self.started:
            await self.end(body)
            return
        self.started = True
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        self._watched = None
        length = (b"content-length", b"%d" % len(body))
        self._send_last(self._head(status, [*headers, length]) + body)

    def _send_head(self, status: int, headers: Headers) -> None:
        self.started = True
        if self._chunked:
            self._frames = True
            headers = [*headers, (b"transfer-encoding", b"chunked")]
        if not self.disconnected:
            self._transport.write(self._head(status, headers))

    def _head(self, status: int, headers: Headers) -> bytes:
        """Raises: RuntimeError: a header has a line break, which would begin another header or the body."""
        self.response_started = True
        headers = [*self._date, *headers]
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        if not lines.count(b"\n") == lines.count(b"\r") == len(headers):
            raise RuntimeError("a header has a line break")
        return b"%b%b\r\n" % (STATUS_LINE[status], lines)

    def _send_last(self, data: bytes) -> None:
        if self.disconnected:
            return
        self._transport.write(data)
        self.response_complete = True
        if not self.keep_alive:
            self._transport.close()
        self._on_end()
