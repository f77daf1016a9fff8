"""Clients that know which answers they have seen to the last byte."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

import msgspec

Kind = Literal["plain", "stream", "draft", "leave"]
KINDS: tuple[Kind, ...] = ("plain", "stream", "draft", "stream", "plain", "leave")
"""What the clients do, in turn. `draft`: the student's answer is reviewed and the teacher answers, every other one as a
stream. `leave`: gone in the middle of a stream."""
PATIENCE_S = 40.0
ID_HEADER = b"x-router-decision-id: "
_encode = msgspec.json.Encoder().encode


class Tally(msgspec.Struct):
    """What the clients have seen."""

    answered: dict[str, str] = {}
    """Kind by decision id, of answers of status 200 that were seen to their last byte."""
    repeated: int = 0
    """Ids that came with two answers."""
    judged: list[str] = []
    """Ids whose judgement was taken."""
    left: int = 0
    cut_off: int = 0
    """Answers that broke off: their gateway was killed."""
    unreachable: int = 0
    refused: dict[int, int] = {}
    """Complete answers by status, other than 200."""


class Clients:
    """`async with`: so many clients, each with one request after the other until the block is left."""

    def __init__(self, port: list[int], *, count: int, seed: int, body_bytes: int = 400) -> None:
        """
        Args:
            port: of the gateway that serves now, as the only element.
        """
        self.tally = Tally()
        self._port, self._count, self._body_bytes = port, count, body_bytes
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not a secret
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._client(index)) for index in range(self._count)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def answers(self, more: int, *, timeout_s: float) -> bool:
        """Wait for so many further answers; False when they do not come."""
        wanted = len(self.tally.answered) + more
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while len(self.tally.answered) < wanted:  # noqa: ASYNC110 - what fills it should not signal each one
                    await asyncio.sleep(0.01)
                return True
        return False

    async def _client(self, index: int) -> None:
        number = index
        while True:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._request(KINDS[number % len(KINDS)], number)
            except ConnectionRefusedError:
                self.tally.unreachable += 1
                await asyncio.sleep(0.05)  # nobody listens: do not spin
            except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                self.tally.cut_off += 1
            number += 1

    async def _request(self, kind: Kind, number: int) -> None:
        stream = kind in ("stream", "leave") or (kind == "draft" and number % 2 == 0)
        directive = "[[fake-tokens-6-finish-length]]" if kind == "draft" else "[[fake-tokens-20-gap-0.005]]"
        padding = "x" * self._random.randint(1, self._body_bytes)
        content = f"{directive} question {number} {padding}"
        fields = {"model": "auto", "messages": [{"role": "user", "content": content}], "stream": stream}
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port[0])
        try:
            _send(writer, "/v1/chat/completions", fields)
            if kind == "leave":
                await reader.read(self._random.randint(1, 2_000))
                self.tally.left += 1
                return
            status, identity, body = await _answer(reader)
            if status != 200:
                self.tally.refused[status] = self.tally.refused.get(status, 0) + 1
                return
            if stream and b"data: [DONE]" not in body[-64:]:
                raise OSError("the stream broke off")
            self.tally.repeated += identity in self.tally.answered
            self.tally.answered[identity] = kind
        finally:
            writer.transport.abort()
        if number % 10 == 0:
            await self._judge(identity)

    async def _judge(self, identity: str) -> None:
        """One judgement on an answer, at most once."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port[0])
        try:
            _send(writer, "/v1/feedback", {"decision_id": identity, "score": 1.0})
            status, _, _ = await _answer(reader)
            if status == 200:
                self.tally.judged.append(identity)
        finally:
            writer.transport.abort()


def _send(writer: asyncio.StreamWriter, path: str, fields: dict[str, object]) -> None:
    body = _encode(fields)
    head = f"POST {path} HTTP/1.1\r\nhost: proof\r\nconnection: close\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    """Status, decision id and body, to the last byte. Raises: OSError, IncompleteReadError: it broke off."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    identity = head.partition(ID_HEADER)[2].partition(b"\r\n")[0].decode()
    length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    if length:
        return status, identity, await reader.readexactly(int(length))
    body = await reader.read(-1)
    if not body.endswith(b"0\r\n\r\n"):
        raise OSError("the answer broke off")
    return status, identity, body.removesuffix(b"0\r\n\r\n").rstrip()
