"""A raw HTTP/1.1 client for load: one request at a time on a kept-alive connection, timed by the event loop's clock."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec

from loadtests.scenarios import Call

_MARKER = b"data: "


class TargetError(ValueError):
    """The target is not one that load may be sent to."""


class Target(msgspec.Struct, frozen=True):
    """A loopback endpoint."""

    host: str
    port: int
    path: str
    """Up to and including `/v1`."""

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises: TargetError: not a plain http URL, or not on this machine."""
        try:
            parts = urlsplit(url)
            port = parts.port or 80
        except ValueError as exc:
            raise TargetError(f"{url!r} is not a URL: {exc}") from exc
        if parts.scheme != "http" or not parts.hostname:
            raise TargetError(f"{url!r} is no http URL such as http://127.0.0.1:8080/v1")
        if not _is_loopback(parts.hostname):
            raise TargetError(
                f"load is only sent to this machine: {parts.hostname!r} is refused; use 127.0.0.1, ::1 or localhost"
            )
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
        return cls(host, port, parts.path.rstrip("/"))

    @property
    def origin(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class Exchange(msgspec.Struct):
    """What became of one request. Times in seconds on the monotonic clock; NaN where nothing came."""

    started_s: float
    first_body_s: float = float("nan")
    ended_s: float = float("nan")
    status: int = 0
    body_bytes: int = 0
    events: int = 0
    """SSE events, `[DONE]` included."""
    finished: bool = False
    """The HTTP body came to its end, and a stream's last event was `[DONE]`."""
    error: str | None = None
    """connect, closed or timeout."""
    route: str = ""
    reason: str = ""

    @property
    def failure(self) -> str | None:
        """Why this exchange does not count as an answer."""
        if self.error is not None:
            return self.error
        if self.status != 200:
            return f"http_{self.status}"
        return None if self.finished else "unfinished"


class Connection(asyncio.Protocol):
    """One kept-alive connection; it opens on first use and again after the server closed it."""

    def __init__(
        self,
        target: Target,
        *,
        timeout_s: float,
        api_key: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._target = target
        self._timeout_s = timeout_s
        more = {"authorization": f"Bearer {api_key}", **headers} if api_key else headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
        self._head = (
            f"host: {target.host}:{target.port}\r\ncontent-type: application/json\r\n{lines}content-length: "
        ).encode()
        self._transport: asyncio.Transport | None = None
        self._ended: asyncio.Future[None] | None = None
        self._exchange = Exchange(0.0)
        self._tail = b""
        self._is_stream = False

    async def exchange(self, call: Call) -> Exchange:
        """Send one request and wait for the end of its answer. Never raises for what the server does."""
        loop = asyncio.get_running_loop()
        exchange = self._exchange = Exchange(time.perf_counter())
        timer: asyncio.TimerHandle | None = None
        try:
            if self._transport is None:
                await loop.create_connection(lambda: self, self._target.host, self._target.port)
            self._parser = httptools.HttpResponseParser(self)
            self._tail, self._is_stream = b"", False
            self._ended = loop.create_future()
            timer = loop.call_later(self._timeout_s, self._end, "timeout")
            line = f"POST {self._target.path}{call.path} HTTP/1.1\r\n".encode()
            cast(asyncio.Transport, self._transport).write(
                b"%b%b%d\r\n\r\n%b" % (line, self._head, len(call.body), call.body)
            )
            await self._ended
        except OSError:
            exchange.error = "connect"
        finally:
            if timer is not None:
                timer.cancel()
        exchange.ended_s = time.perf_counter()
        if exchange.error is not None:
            self.close()
        return exchange

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _end(self, error: str | None) -> None:
        if self._ended is not None and not self._ended.done():
            self._exchange.error = error
            self._ended.set_result(None)

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses of it

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end("closed")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._end("bad_http")

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.lower()
        if key == b"content-type":
            self._is_stream = value.startswith(b"text/event-stream")
        elif key == b"x-router-route":
            self._exchange.route = value.decode("latin-1")
        elif key == b"x-router-reason":
            self._exchange.reason = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange.body_bytes == 0:
            exchange.first_body_s = time.perf_counter()
        exchange.body_bytes += len(body)
        if self._is_stream:
            seen = self._tail + body
            exchange.events += seen.count(_MARKER) - self._tail.count(_MARKER)
            self._tail = seen[-16:]

    def on_message_complete(self) -> None:
        self._exchange.status = self._parser.get_status_code()
        self._exchange.finished = not self._is_stream or self._tail.rstrip().endswith(b"data: [DONE]")
        keep_alive = self._parser.should_keep_alive()
        self._end(None)
        if not keep_alive:
            self.close()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
