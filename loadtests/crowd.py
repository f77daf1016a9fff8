"""The clients of a soak: many that read to the end, some that leave, some that read slowly, some that ask plainly."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import msgspec

TOKENS = 40
GAP_S = 0.05
"""Between two events of the backend: a stream takes about two seconds."""
WIDE_CHARS = 4_000
"""More in each event for a client that reads slowly: it must fill what the sockets between hold."""
SLOW_READ_BYTES = 8_192
SLOW_PAUSE_S = 0.05
RECEIVE_BYTES = 2**16
PATIENCE_S = 120.0
KINDS = ("read",) * 7 + ("leave", "slow", "plain")
"""What the clients do, in turn: the shares."""

_encode = msgspec.json.Encoder().encode


class Tally(msgspec.Struct):
    """What the clients have seen."""

    finished: int = 0
    slow: int = 0
    left: int = 0
    plain: int = 0
    wrong: int = 0
    """Answers that were refused, cut off, or not in full."""
    first_wrong: str = ""


class Crowd:
    """`async with`: so many clients, each with one request after the other until the block is left."""

    def __init__(self, origin: str, *, streams: int, headers: Mapping[str, str]) -> None:
        self.tally = Tally()
        parts = urlsplit(origin)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._streams = streams
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._tasks: list[asyncio.Task[None]] = []
        self._numbers = itertools.count()
        self._random = random.Random(0)  # noqa: S311 - when clients leave, not a secret
        self._stopping = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._client(index)) for index in range(self._streams)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self, index: int) -> None:
        kind = KINDS[index % len(KINDS)]
        await asyncio.sleep(self._random.random() * TOKENS * GAP_S)  # not all in step
        while True:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._request(kind)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as exc:
                self._note_wrong(f"{kind}: {type(exc).__name__}")
                await asyncio.sleep(0.1)  # nobody listens: do not spin

    async def _request(self, kind: str) -> None:
        """One request on a connection of its own."""
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=SLOW_READ_BYTES)
        try:
            writer.write(self._bytes_of(kind))
            if kind == "leave":
                await reader.read(self._random.randint(1, SLOW_READ_BYTES))
                self.tally.left += 1
                return
            answer = await _read(reader, slowly=kind == "slow")
            if not _is_whole(answer, kind):
                self._note_wrong(f"{kind}: {answer[:200]!r} ... {answer[-100:]!r}")
            elif kind == "plain":
                self.tally.plain += 1
            else:
                self.tally.finished += 1
                self.tally.slow += kind == "slow"
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    def _bytes_of(self, kind: str) -> bytes:
        wide = f"-wide-{WIDE_CHARS}" if kind == "slow" else f"-gap-{GAP_S}"
        content = f"[[fake-tokens-{TOKENS}{wide}]] question {next(self._numbers)}"
        fields = {"model": "auto", "messages": [{"role": "user", "content": content}], "stream": kind != "plain"}
        body = _encode(fields)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n{self._headers}"
        return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    def _note_wrong(self, what: str) -> None:
        if not self._stopping:
            self.tally.wrong += 1
            self.tally.first_wrong = self.tally.first_wrong or what


async def _read(reader: asyncio.StreamReader, *, slowly: bool) -> bytes:
    """Head and end of the answer, at most; the rest is counted out."""
    answer = b""
    while data := await reader.read(SLOW_READ_BYTES if slowly else RECEIVE_BYTES):
        answer = (answer + data) if len(answer) < RECEIVE_BYTES else answer[:1024] + (answer[1024:] + data)[-1024:]
        if slowly:
            await asyncio.sleep(SLOW_PAUSE_S)
    return answer


def _is_whole(answer: bytes, kind: str) -> bool:
    end = b'"usage"' if kind == "plain" else b"data: [DONE]"
    return answer.startswith(b"HTTP/1.1 200 ") and end in answer[-1024:]
