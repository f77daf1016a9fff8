"""The client of the hot path, against servers that misbehave at the level of HTTP and TCP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from router.http_client import MAX_BUFFERED_BYTES, HttpClient, HttpError

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@asynccontextmanager
async def served(handler: Handler, **options: float) -> AsyncIterator[HttpClient]:
    """A client of a server that treats every connection with `handler`."""

    async def close_after(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(close_after, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = {"connect_timeout_s": 2.0, "max_connections": 8, "keep_alive_s": 4.0} | options
    client = HttpClient(f"http://127.0.0.1:{port}/v1", **settings)  # type: ignore[arg-type]
    yield client
    await client.close()
    server.close()


async def request_of(reader: asyncio.StreamReader) -> bytes:
    """One request, head and body. Raises: IncompleteReadError at the end of the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


def answering(*answers: bytes) -> Handler:
    """Gives each request on a connection the next answer, then closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await request_of(reader)
            writer.write(answer)
            await writer.drain()

    return handle


async def post(client: HttpClient, body: bytes = b"{}") -> tuple[int, bytes]:
    response = await client.post(client.head(b"/chat", []), [], body)
    data = b""
    while chunk := await response.read():
        data += chunk
    return response.status, data


async def test_connection_is_used_again_when_an_answer_has_ended() -> None:
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(b"connection")
        while True:
            seen.append(await request_of(reader))
            writer.write(OK)

    async with served(handle) as client:
        for _ in range(3):
            assert await post(client, b"body") == (200, b"ok")
    assert seen.count(b"connection") == 1
    assert seen[1].startswith(b"POST /v1/chat HTTP/1.1\r\nhost: 127.0.0.1:")
    assert seen[1].endswith(b"content-length: 4\r\n\r\nbody")


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n3\r\n!!!\r\n0\r\n\r\n", b"ok!!!"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
async def test_every_framing_of_a_body_is_understood(answer: bytes, body: bytes) -> None:
    async with served(answering(answer)) as client:
        assert (await post(client))[1] == body


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nx: y\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
async def test_answer_that_breaks_off_or_is_not_http_is_an_error_and_never_a_short_body(answer: bytes) -> None:
    async with served(answering(answer)) as client:
        with pytest.raises(HttpError) as caught:
            await post(client)
        assert not caught.value.retriable
        assert caught.value.connected


async def test_error_is_retriable_only_when_a_kept_alive_connection_had_been_closed() -> None:
    async with served(answering(OK, b"")) as client:
        assert await post(client) == (200, b"ok")
        with pytest.raises(HttpError) as reused:
            await post(client)
        assert reused.value.retriable
    async with served(answering(b"")) as client:
        with pytest.raises(HttpError) as fresh:
            await post(client)
        assert not fresh.value.retriable


async def test_bytes_that_nobody_asked_for_close_the_connection_instead_of_answering_the_next_request() -> None:
    async with served(answering(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", OK)) as client:
        with contextlib.suppress(HttpError):  # refusing the first answer as well is as safe
            assert (await post(client))[1] == b"ok"
        await asyncio.sleep(0.05)
        assert (await post(client))[1] == b"ok"


async def test_refused_connection_says_that_nothing_was_sent() -> None:
    client = HttpClient("http://127.0.0.1:9/v1", connect_timeout_s=1, max_connections=1, keep_alive_s=1)
    for _ in range(3):  # a slot that was not given back would hang the second try
        with pytest.raises(HttpError) as caught:
            await post(client)
        assert not caught.value.connected


async def test_reading_pauses_when_the_consumer_does_not_read() -> None:
    sent = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(1600):
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with served(handle) as client:
        response = await client.post(client.head(b"/chat", []), [], b"")
        await asyncio.sleep(0.5)
        stuck_at = sent
        await asyncio.sleep(0.3)
        assert sent == stuck_at < 1600 * 65536
        first = await response.read()
        assert len(first) < MAX_BUFFERED_BYTES + 1_000_000
        size = len(first)
        while chunk := await response.read():
            size += len(chunk)
        assert size == 1600 * 65536


async def test_cancelled_request_closes_its_connection_and_gives_its_slot_back() -> None:
    gone = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        if not gone.is_set():
            await reader.read()
            gone.set()
        else:
            writer.write(OK)

    async with served(handle, max_connections=1) as client:
        task = asyncio.create_task(post(client))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 5)
        assert await asyncio.wait_for(post(client), 5) == (200, b"ok")


async def test_requests_wait_for_a_slot_when_all_connections_are_busy() -> None:
    running, most = 0, 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        while True:
            await request_of(reader)
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1
            writer.write(OK)

    async with served(handle, max_connections=2) as client:
        assert await asyncio.gather(*(post(client) for _ in range(10))) == [(200, b"ok")] * 10
    assert most == 2


async def test_stale_connection_is_not_used_again() -> None:
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await request_of(reader)
        writer.write(OK)
        await reader.read()

    async with served(handle, keep_alive_s=0.0) as client:
        assert await post(client) == (200, b"ok")
        assert await post(client) == (200, b"ok")
    assert connections == 2


async def test_closed_client_opens_no_connection_when_requests_still_wait_for_a_slot() -> None:
    """Another server may have the address by then, and would answer in the name of the old one."""
    connections = 0
    asked = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await request_of(reader)
        asked.set()
        await reader.read()

    async with served(handle, max_connections=1) as client:
        running, waiting = asyncio.create_task(post(client)), asyncio.create_task(post(client))
        await asyncio.wait_for(asked.wait(), 5)
        await client.close()
        for request in (running, waiting, asyncio.create_task(post(client))):
            with pytest.raises(HttpError):
                await asyncio.wait_for(request, 5)
    assert connections == 1


def parts_on_demand(*parts: bytes) -> tuple[Handler, asyncio.Event]:
    """A chunked answer, whose parts come one by one, each when the event is set."""
    ask = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for part in parts:
            await ask.wait()
            ask.clear()
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        await reader.read()

    return handle, ask


async def test_sink_takes_what_arrives_until_it_refuses_something() -> None:
    handler, ask = parts_on_demand(b"one", b"two", b"three", b"four")
    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        ask.set()
        if data == b"three":
            return False
        taken.append(data)
        return True

    async with served(handler) as client:
        response = await client.post(client.head(b"/chat", []), [], b"{}")
        response.divert(take)
        ask.set()
        rest = b""
        while data := await response.read():
            rest += data
    assert taken == [b"one", b"two"]
    assert rest == b"threefour"


async def test_sink_is_offered_nothing_when_bytes_before_it_wait_to_be_read() -> None:
    handler, ask = parts_on_demand(b"one", b"two")
    async with served(handler) as client:
        response = await client.post(client.head(b"/chat", []), [], b"{}")
        ask.set()
        while not response.unread():  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
        response.divert(lambda data: pytest.fail("it would overtake what came before"))
        ask.set()
        assert await response.read() == b"one"
        assert await response.read() == b"two"


async def test_slot_is_given_on_when_the_request_that_waits_for_it_is_given_up() -> None:
    release = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            await release.wait()
            writer.write(OK)

    async with served(handle, max_connections=1) as client:
        first = asyncio.create_task(post(client))
        await asyncio.sleep(0.01)
        given_up, next_one = asyncio.create_task(post(client)), asyncio.create_task(post(client))
        await asyncio.sleep(0)
        given_up.cancel()
        release.set()
        assert await first == (200, b"ok")
        assert await next_one == (200, b"ok")
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert await post(client) == (200, b"ok")
