"""The client's side of one HTTP exchange: reads the body, notices that the client left, sends the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from router.errors import BodyTooLarge
from router.http_client import Headers

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HEARTBEAT = b": waiting for the answer\n\n"


class ClientGone(Exception):
    """The client closed the connection before it had its answer."""


class Exchange:
    """One request and its response, on raw ASGI."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers: Headers = scope["headers"]
        self.path: str = scope["path"]
        self.started = False
        self.client_gone = False
        self._receive = receive
        self._send = send
        self._watcher: asyncio.Task[None] | None = None
        self._heartbeats: asyncio.Task[None] | None = None

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
        declared = self.header(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit_bytes:
                raise BodyTooLarge(limit_bytes)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def watch(self) -> None:
        """From now on a client that leaves cancels the current task, and `client_gone` says so."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI servers run every request in a task
        self._watcher = asyncio.create_task(self._watch(task))

    async def _watch(self, task: asyncio.Task[Any]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.client_gone = True
        task.cancel()

    def stop_watching(self) -> None:
        """To be called before the last byte: the end of the response looks like a disconnect."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

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
                self.started = True
                await self._send({"type": "http.response.start", "status": 200, "headers": headers()})
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

    async def start(self, status: int, headers: Headers) -> None:
        """The head of the response; nothing, where heartbeats have sent it."""
        if self._heartbeats is not None:
            await self.stop_heartbeats()
        if self.started:
            return
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        """Part of the body. Waits while the client reads slowly: this is the stream's backpressure."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """The last part of the body."""
        self.stop_watching()
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole response."""
        length = (b"content-length", b"%d" % len(body))
        await self.start(status, [*headers, length])
        await self.end(body)
