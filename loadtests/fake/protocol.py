"""One connection of the fake backend: parses HTTP/1.1, keeps pipelined requests in order, plays the replies."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from http import HTTPStatus
from typing import cast

import httptools

from loadtests.fake.reply import Reply
from loadtests.fake.routes import reply_to
from loadtests.fake.state import BackendState, Received

MAX_BODY_BYTES = 64 * 2**20
MAX_PIPELINED = 128
FRAMES_PER_SEGMENT = 3
"""Frames that `merge` puts into one segment."""
RESET_GRACE_S = 0.02
"""A reset discards what the client's kernel has not taken yet; what was sent before it must arrive."""
ENDLESS_BYTES, ENDLESS_PIECE_BYTES = 48 * 2**20, 64 * 2**10
HINTS = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"
TRAILERS = b"0\r\nx-checksum: 5\r\n\r\n"
SURPLUS_BODY = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"SURPLUS"},"finish_reason":"stop"}]}'
SURPLUS = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(SURPLUS_BODY)
SPLIT_SIZES = (1, 7, 2, 13, 3, 29)

_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


class BackendProtocol(asyncio.Protocol):
    """Created once a connection. Replies that need no waiting are written from the parser's own callback."""

    def __init__(self, state: BackendState, tasks: set[asyncio.Task[None]], transports: set[asyncio.Transport]) -> None:
        self._state = state
        self._tasks = tasks
        self._transports = transports
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[tuple[Received, bool]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._target = b""
        self._closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses of it
        self._transports.add(self._transport)
        self._state.connections += 1
        self._state.connections_total += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._transports.discard(self._transport)
        self._state.connections -= 1
        self._queue.clear()
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._closed:
                self._transport.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                self._transport.close()

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self._headers, self._body, self._body_bytes = [], [], 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        if len(name) == 6 and name.lower() == b"expect" and value.lower() == b"100-continue" and self._task is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._closed = True
            self._transport.write(b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self._transport.close()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._closed:
            return
        request = Received(self._parser.get_method(), self._target, self._headers, b"".join(self._body))
        self._target = b""
        keep_alive = self._parser.should_keep_alive()
        if self._task is not None:
            self._queue.append((request, keep_alive))
            if len(self._queue) == MAX_PIPELINED:
                self._transport.pause_reading()
            return
        self._serve(request, keep_alive)

    # replies

    def _serve(self, request: Received, keep_alive: bool) -> None:
        state = self._state
        reply = reply_to(request, state)
        if not reply.is_control:
            state.requests += 1
            state.by_status[reply.status] += 1
            request.status = reply.status
            state.received.append(request)
        if reply.events is None and reply.scenario.is_instant:
            self._transport.write(_head(reply, keep_alive) + reply.body)
            if not reply.is_control:
                request.response.append(reply.body)
                state.completed += 1
                state.faulted += reply.scenario.fault is not None
            if not keep_alive:
                self._closed = True
                self._transport.close()
            return
        state.in_flight += 1
        self._task = asyncio.get_running_loop().create_task(self._play_and_go_on(request, reply, keep_alive))
        self._tasks.add(self._task)
        self._task.add_done_callback(self._tasks.discard)

    async def _play_and_go_on(self, request: Received, reply: Reply, keep_alive: bool) -> None:
        state = self._state
        try:
            await self._play(request, reply, keep_alive)
        except asyncio.CancelledError:
            state.aborted += 1
            raise
        else:
            state.completed += 1
            scenario = reply.scenario
            state.faulted += scenario.fault is not None or scenario.no_done or scenario.slow_headers_s > 0
        finally:
            state.in_flight -= 1
        self._task = None
        if not keep_alive:
            self._closed = True
            self._transport.close()
        was_full = len(self._queue) >= MAX_PIPELINED
        while self._queue and self._task is None and not self._closed:
            self._serve(*self._queue.popleft())
        if was_full and not self._closed:
            self._transport.resume_reading()

    async def _play(self, request: Received, reply: Reply, keep_alive: bool) -> None:
        scenario = reply.scenario
        if scenario.delay_s:
            await self._state.delay(scenario.delay_s)
        if scenario.after_chunks is None and await self._strike(scenario.fault):
            return
        head = _head(reply, keep_alive)
        if scenario.slow_headers_s:
            for line in head.splitlines(keepends=True)[:-1]:
                await self._send(line)
                await asyncio.sleep(scenario.slow_headers_s)
            head = b"\r\n"
        if scenario.hints:
            head = HINTS + head
        if reply.events is None:
            await self._play_body(request, reply, head)
        else:
            await self._play_events(request, reply, head)

    async def _play_body(self, request: Received, reply: Reply, head: bytes) -> None:
        body, scenario = reply.body, reply.scenario
        if scenario.after_chunks is not None and scenario.fault in ("reset", "truncate", "cut", "hang"):
            half = body[: len(body) // 2]
            request.response.append(half)
            await self._send(head + half)
            await self._strike("truncate" if scenario.fault == "cut" else scenario.fault)
            return
        request.response.append(body)
        if scenario.trailers:
            body = b"%x\r\n%b\r\n%b" % (len(body), body, TRAILERS)
        if scenario.surplus:
            body += SURPLUS + SURPLUS_BODY
        *pieces, last = _split(head + body) if scenario.split else [head + body]
        for piece in pieces:
            await self._send(piece)
        self._transport.write(last)

    async def _play_events(self, request: Received, reply: Reply, head: bytes) -> None:
        scenario, events = reply.scenario, reply.events or []
        last = len(events)
        mid_fault = scenario.fault if scenario.fault in ("reset", "truncate", "cut", "hang", "endless") else None
        if mid_fault and scenario.after_chunks is not None:
            last = min(last, reply.lead_events + scenario.after_chunks)
        segments = _segments(events[:last], merge=scenario.merge, split=scenario.split)
        if not segments:
            await self._send(head)
            head = b""
        for index, segment in enumerate(segments):
            if index and scenario.gap_s:
                await asyncio.sleep(scenario.gap_s)
            request.response.append(segment)
            self._transport.write(b"%b%x\r\n%b\r\n" % (head, len(segment), segment))
            head = b""
            if self._drained is not None:
                await self._drained
            await asyncio.sleep(0)  # keeps this segment apart from the next, as a generating backend does
        if mid_fault == "endless":
            await self._send_endless_event()
            mid_fault = "truncate"
        if mid_fault and mid_fault != "cut":
            await self._strike(mid_fault)
            return
        self._transport.write(TRAILERS if scenario.trailers else b"0\r\n\r\n")
        if scenario.surplus:
            self._transport.write(SURPLUS + SURPLUS_BODY)

    async def _send_endless_event(self) -> None:
        """An event that has not ended when the connection is closed."""
        await self._send(b'd\r\ndata: {"id":"\r\n')
        piece = b"%x\r\n%b\r\n" % (ENDLESS_PIECE_BYTES, b"x" * ENDLESS_PIECE_BYTES)
        for _ in range(ENDLESS_BYTES // ENDLESS_PIECE_BYTES):
            await self._send(piece)

    async def _send(self, data: bytes) -> None:
        """Write one segment: yielding to the loop keeps it apart from the next, as a generating backend does."""
        self._transport.write(data)
        if self._drained is not None:
            await self._drained
        await asyncio.sleep(0)

    async def _strike(self, fault: str | None) -> bool:
        """End the exchange on purpose. False when the fault is of another kind."""
        if fault == "hang":
            await asyncio.get_running_loop().create_future()
        if fault not in ("reset", "close", "truncate"):
            return False
        self._closed = True
        self._queue.clear()
        if fault == "reset":
            await asyncio.sleep(RESET_GRACE_S)
            connection = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._task = None
            self._transport.abort()
        else:
            self._task = None
            self._transport.close()
        return True


def _head(reply: Reply, keep_alive: bool) -> bytes:
    line = _STATUS_LINES.get(reply.status) or b"HTTP/1.1 %d Status\r\n" % reply.status
    chunked = reply.events is not None or reply.scenario.trailers
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(reply.body)
    head = b"%bserver: uvicorn\r\ncontent-type: %b\r\n%b\r\n" % (line, reply.content_type, framing)
    for name, value in reply.headers:
        head += b"%b: %b\r\n" % (name, value)
    return head + (b"\r\n" if keep_alive else b"connection: close\r\n\r\n")


def _segments(events: list[bytes], *, merge: bool, split: bool) -> list[bytes]:
    """What is written at a time: an event, unless told otherwise."""
    if merge:
        groups = range(0, len(events), FRAMES_PER_SEGMENT)
        events = [b"".join(events[start : start + FRAMES_PER_SEGMENT]) for start in groups]
    if split:
        return [piece for event in events for piece in _split(event)]
    return events


def _split(data: bytes) -> list[bytes]:
    """Cut at odd places: inside field names, escapes, UTF-8 sequences and line ends."""
    pieces, position, turn = [], 0, 0
    while position < len(data):
        size = SPLIT_SIZES[turn % len(SPLIT_SIZES)]
        pieces.append(data[position : position + size])
        position, turn = position + size, turn + 1
    return pieces
