"""A client that misbehaves on demand and keeps every byte it got: what a gateway is judged by."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

import httptools
import msgspec

End = Literal["complete", "closed", "reset", "bad_http", "patience"]
"""How an answer ended: by its own framing, by a close before that, by a TCP reset, in bytes that are no HTTP, or not
at all while we waited."""
READ_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 5.0


class Seen(msgspec.Struct):
    """One answer as it came off the wire; the body without transfer coding."""

    status: int = 0
    headers: list[tuple[str, str]] = []
    body: bytes = b""
    end: End = "patience"
    interim: list[int] = []
    """Statuses of 1xx answers before it."""
    elapsed_s: float = 0.0
    chunked: bool = False

    def header(self, name: str) -> str | None:
        """The first value of a header; the name in lower case."""
        return next((value for key, value in self.headers if key == name), None)


class _Parser:
    """Feeds one answer into a `Seen`."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.complete = False
        self.framed = False
        self._http = httptools.HttpResponseParser(self)
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self.tail = b""

    def feed(self, data: bytes) -> None:
        """Raises: httptools.HttpParserError."""
        with contextlib.suppress(httptools.HttpParserUpgrade):
            self._http.feed_data(data)

    def finish(self) -> None:
        self.seen.body = b"".join(self._body)

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        if self.seen.status:  # a trailer
            return
        self._headers.append((key, value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        status = self._http.get_status_code()
        if status < 200:
            self.seen.interim.append(status)
            self._headers = []
            return
        self.seen.status, self.seen.headers = status, self._headers
        self.seen.chunked = "chunked" in (self.seen.header("transfer-encoding") or "").lower()
        self.framed = self.seen.chunked or self.seen.header("content-length") is not None

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self._body.append(body)
            self.tail = (self.tail + body)[-READ_BYTES:]

    def on_message_complete(self) -> None:
        self.complete = self.complete or bool(self.seen.status)


class Client:
    """One connection to the gateway. A context manager: leaving closes it."""

    def __init__(self, origin: str, *, receive_buffer_bytes: int | None = None) -> None:
        parts = urlsplit(origin)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._receive_buffer_bytes = receive_buffer_bytes
        self._parser: _Parser | None = None

    async def __aenter__(self) -> Self:
        """Raises: OSError."""
        connection = socket.socket()
        connection.setblocking(False)
        if self._receive_buffer_bytes is not None:  # to be set before the handshake
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._loop.sock_connect(connection, self._address)
        except BaseException:
            connection.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    def half_close(self) -> None:
        """Say that nothing more will be sent; the answer can still come."""
        self._socket.shutdown(socket.SHUT_WR)

    def leave(self, *, reset: bool = False) -> None:
        """Close without reading the rest, as a program that was ended or gave up does."""
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    async def receive(self, patience_s: float, *, until: bytes | None = None, interim: bool = False) -> Seen:
        """Read one answer to its end, or until its body holds these bytes, or (`interim`) until a 1xx answer has come,
        or until patience runs out; in these cases the next call goes on with the same answer."""
        started_s = time.monotonic()
        if self._parser is None:
            self._parser = _Parser(Seen(headers=[], interim=[]))
        parser, seen = self._parser, self._parser.seen
        try:
            async with asyncio.timeout(patience_s):
                seen.end = await self._read(parser, until, interim)
        except TimeoutError:
            seen.end = "patience"
        except OSError:
            seen.end = "reset"
        except httptools.HttpParserError:
            seen.end = "bad_http"
        parser.finish()
        if seen.end != "patience":
            self._parser = None
        seen.elapsed_s = time.monotonic() - started_s
        return seen

    async def receive_some(self) -> bytes:
        """Whatever comes next, unparsed; empty at the end. Raises: OSError."""
        return await self._loop.sock_recv(self._socket, READ_BYTES)

    async def _read(self, parser: _Parser, until: bytes | None, interim: bool) -> End:
        while not parser.complete:
            data = await self._loop.sock_recv(self._socket, READ_BYTES)
            if not data:
                has_no_length = bool(parser.seen.status) and not parser.framed
                return "complete" if has_no_length else "closed"
            parser.feed(data)
            if (until is not None and until in parser.tail) or (interim and parser.seen.interim):
                return "patience"
        return "complete"


def request(
    path: str, body: bytes, headers: dict[str, str], *, version: str = "1.1", framing: str = "content-length"
) -> bytes:
    """The bytes of a POST. `framing`: `content-length`, or `chunked` with a trailer, or `none`."""
    lines = [f"POST {path} HTTP/{version}", "host: 127.0.0.1", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if framing == "content-length":
        lines.append(f"content-length: {len(body)}")
    elif framing == "chunked":
        lines += ["transfer-encoding: chunked", "trailer: x-late"]
        middle = len(body) // 2
        pieces = (body[:middle], body[middle:])
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nx-late: 1\r\n\r\n"
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
