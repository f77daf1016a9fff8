"""The client's side of one exchange, where its parts end at awkward moments."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from router.errors import BodyTooLarge
from router.exchange import ClientGone, Exchange


class Transport(asyncio.Transport):
    """Keeps what was written, and what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


class Connection:
    """One exchange on a transport of its own."""

    def __init__(self, **options: Any) -> None:
        self.transport = Transport()
        self.flow = FlowControl(self.transport)
        self.ended = 0
        self.exchange = Exchange(self.transport, self.flow, **{"headers": [], "on_end": self._end, **options})

    def _end(self) -> None:
        self.ended += 1


async def test_cancellation_is_not_lost_when_it_comes_while_heartbeats_are_being_stopped() -> None:
    class SlowFlow(FlowControl):
        beaten, letting_go = asyncio.Event(), asyncio.Event()

        async def drain(self) -> None:
            self.beaten.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.letting_go.set()
                await asyncio.sleep(0.01)
                raise

    flow = SlowFlow(Transport())
    flow.pause_writing()
    exchange = Exchange(Transport(), flow, headers=[])
    exchange.begin_heartbeats(0.0, list)
    await flow.beaten.wait()
    answering = asyncio.create_task(exchange.start(200, []))
    await flow.letting_go.wait()
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering


async def test_body_is_read_on_when_its_first_part_filled_the_buffer() -> None:
    connection = Connection()
    parts = [b"a" * 70_000, b"b" * 70_000]
    connection.exchange.feed(parts[0])
    assert not connection.transport.reading
    reading = asyncio.create_task(connection.exchange.read_body(limit_bytes=10**6))
    await asyncio.sleep(0)
    assert connection.transport.reading
    connection.exchange.feed(parts[1])
    connection.exchange.complete()
    assert await reading == b"".join(parts)
    assert connection.transport.reading


async def test_body_is_refused_when_it_grows_beyond_its_limit() -> None:
    connection = Connection()
    reading = asyncio.create_task(connection.exchange.read_body(limit_bytes=10))
    await asyncio.sleep(0)
    connection.exchange.feed(b"x" * 11)
    with pytest.raises(BodyTooLarge):
        await reading


async def test_body_is_refused_unread_when_its_declared_length_is_too_much() -> None:
    connection = Connection(headers=[(b"content-length", b"11")], expects_continue=True)
    with pytest.raises(BodyTooLarge):
        await connection.exchange.read_body(limit_bytes=10)
    assert connection.transport.written == b""


async def test_body_reader_learns_that_the_client_left_when_it_leaves_within_the_body() -> None:
    connection = Connection()
    reading = asyncio.create_task(connection.exchange.read_body(limit_bytes=10))
    await asyncio.sleep(0)
    connection.exchange.disconnect()
    with pytest.raises(ClientGone):
        await reading


async def test_client_that_leaves_cancels_the_task_when_it_is_watched() -> None:
    connection = Connection()

    async def serve() -> None:
        connection.exchange.watch()
        await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await asyncio.sleep(0)
    connection.exchange.disconnect()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert connection.exchange.client_gone


async def test_client_that_left_before_it_is_watched_cancels_the_task_all_the_same() -> None:
    connection = Connection()
    connection.exchange.disconnect()

    async def serve() -> None:
        connection.exchange.watch()
        await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(serve())
    assert connection.exchange.client_gone


async def test_whole_response_is_one_write_with_its_length() -> None:
    connection = Connection(date=[(b"date", b"today")])
    await connection.exchange.respond(200, [(b"x-a", b"1")], b"body")
    assert connection.transport.written == b"HTTP/1.1 200 OK\r\ndate: today\r\nx-a: 1\r\ncontent-length: 4\r\n\r\nbody"
    assert connection.ended == 1
    assert not connection.transport.closed


async def test_parts_are_chunks_when_the_client_speaks_http_1_1() -> None:
    connection = Connection()
    await connection.exchange.start(200, [])
    await connection.exchange.write(b"0123456789abcdef")
    await connection.exchange.write(b"")
    await connection.exchange.end(b"end")
    head, _, body = connection.transport.written.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert body == b"10\r\n0123456789abcdef\r\n3\r\nend\r\n0\r\n\r\n"


async def test_parts_end_with_the_connection_when_the_client_speaks_http_1_0() -> None:
    connection = Connection(keep_alive=False, chunked=False)
    await connection.exchange.start(200, [])
    await connection.exchange.write(b"first")
    await connection.exchange.end(b"last")
    head, _, body = connection.transport.written.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"transfer-encoding" not in head
    assert body == b"firstlast"
    assert connection.transport.closed


async def test_header_with_a_line_break_is_not_sent() -> None:
    for value in (b"1\r\nx-b: 2", b"1\nx-b: 2", b"1\rx-b: 2"):
        connection = Connection()
        with pytest.raises(RuntimeError):
            await connection.exchange.respond(200, [(b"x-a", value)], b"")
        assert connection.transport.written == b""


async def test_write_waits_when_the_client_reads_slowly() -> None:
    connection = Connection()
    await connection.exchange.start(200, [])
    connection.flow.pause_writing()
    assert not connection.exchange.put(b"late")
    writing = asyncio.create_task(connection.exchange.write(b"late"))
    await asyncio.sleep(0)
    assert b"late" not in connection.transport.written
    connection.flow.resume_writing()
    await writing
    assert b"late" in connection.transport.written
