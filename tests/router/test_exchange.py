"""The client's side of one exchange, where its parts end at awkward moments."""

from __future__ import annotations

import asyncio

import pytest

from router.exchange import Exchange, Message


class Client:
    """Takes the first byte of a heartbeat, and lets go of it slowly."""

    def __init__(self) -> None:
        self.beaten, self.letting_go = asyncio.Event(), asyncio.Event()
        self.sent: list[str] = []

    async def receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Message) -> None:
        self.sent.append(message["type"])
        if message["type"] == "http.response.body" and not self.beaten.is_set():
            self.beaten.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.letting_go.set()
                await asyncio.sleep(0.01)
                raise


async def test_cancellation_is_not_lost_when_it_comes_while_heartbeats_are_being_stopped() -> None:
    client = Client()
    exchange = Exchange({"headers": [], "path": "/"}, client.receive, client.send)
    exchange.begin_heartbeats(0.0, list)
    await client.beaten.wait()
    answering = asyncio.create_task(exchange.start(200, []))
    await client.letting_go.wait()
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
