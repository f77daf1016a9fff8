"""Names of hosts are looked up once at a time."""

from __future__ import annotations

import asyncio

import pytest

from router.state.lookup import Lookup


async def test_no_second_look_up_begins_when_the_first_one_hangs() -> None:
    calls: list[str] = []
    answered = asyncio.Event()

    async def resolve(host: str, port: int) -> None:
        calls.append(host)
        await answered.wait()

    lookup = Lookup("redis.internal", 6379, resolve)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await lookup.check(within_s=0.001)
    answered.set()
    await lookup.check(within_s=20)
    assert calls == ["redis.internal"]
    await lookup.check(within_s=20)
    assert calls == ["redis.internal"] * 2


async def test_failed_look_up_is_an_error_once() -> None:
    async def resolve(host: str, port: int) -> None:
        raise OSError("no such name")

    with pytest.raises(OSError, match="no such name"):
        await Lookup("redis.internal", 6379, resolve).check(within_s=20)


@pytest.mark.parametrize("host", [None, "127.0.0.1", "::1"])
async def test_nothing_is_looked_up_for_addresses_and_sockets(host: str | None) -> None:
    calls = []

    async def resolve(host: str, port: int) -> None:
        calls.append(host)

    await Lookup(host, 6379, resolve).check(within_s=20)
    assert calls == []
