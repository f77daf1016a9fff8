"""Redis slow, frozen, stopped, restarted, forgetful, demoted or closed to us: no call outlasts its bound, every error is
StateUnavailable, and the store recovers by itself.

The bound is `BOUND_S`; that a call keeps it is told from the patience of the client library by `LONG_S`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from router.config import StateConfig
from router.errors import StateUnavailable
from router.state.base import Adjust, Budget, Rate, Slots
from router.state.linked import LinkedStore
from router.state.redis import RedisWire
from tests.router.state.conftest import Proxy, RedisServer, start_redis

BOUND_S = 0.4
LONG_S = 8.0
CLAIMS = [Rate("r", 100, 1), Slots("s", 100, 30)]
BUDGET = Budget("b", limit=10, amount=4, resets="month")

Open = Callable[..., AbstractAsyncContextManager[LinkedStore]]


@pytest.fixture
def opened(redis: RedisServer) -> Open:
    @asynccontextmanager
    async def open_it(
        url: str = redis.url, environ: dict[str, str] | None = None, **config: Any
    ) -> AsyncIterator[LinkedStore]:
        settings = StateConfig(url=url, timeout_s=BOUND_S, **config)
        async with LinkedStore(RedisWire(settings, environ or {}), timeout_s=BOUND_S) as store:
            yield store

    return open_it


async def works(store: LinkedStore) -> bool:
    try:
        await store.put("key", b"value", ttl_s=60)
        return (await store.admit(CLAIMS, holder="works")).admitted and await store.get("key") == b"value"
    except StateUnavailable:
        return False


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 - the condition is in another process
            await asyncio.sleep(0.02)


async def assert_bounded(store: LinkedStore) -> None:
    """Every method ends with StateUnavailable and soon."""
    calls: list[Awaitable[Any]] = [
        store.admit(CLAIMS, holder="h"),
        store.renew(["h"]),
        store.get("key"),
        store.put("key", b"", ttl_s=1),
        store.read_document("d"),
        store.write_document("d", b"", expected_version=None),
        store.document_history("d"),
    ]
    async with asyncio.timeout(LONG_S):
        results = await asyncio.gather(*calls, return_exceptions=True)
        await store.settle([Adjust(CLAIMS[0], 1.0)], holder="h")  # is kept and does not raise
    assert [type(result) for result in results] == [StateUnavailable] * len(calls)


async def test_calls_end_in_time_when_redis_is_slow(redis: RedisServer, opened: Open) -> None:
    async with Proxy(redis.socket, redis.folder / "proxy.sock") as proxy, opened(f"unix://{proxy.path}") as store:
        await eventually(lambda: works(store))
        proxy.delay_s = 60.0
        await assert_bounded(store)
        await eventually(lambda: _is(store.failure == "timeout"))
        proxy.cut()
        proxy.delay_s = 0.0
        await eventually(lambda: works(store))
        assert store.failure is None


async def test_calls_end_in_time_when_redis_is_frozen(redis: RedisServer, opened: Open) -> None:
    async with opened() as store:
        await eventually(lambda: works(store))
        redis.freeze()
        await assert_bounded(store)
        redis.thaw()
        await eventually(lambda: works(store))
        assert store.failure is None


async def test_calls_end_in_time_when_redis_is_stopped_and_work_when_it_is_restarted(
    redis: RedisServer, opened: Open
) -> None:
    async with opened() as store:
        await eventually(lambda: works(store))
        redis.stop()
        await assert_bounded(store)
        await eventually(lambda: _is(store.failure == "Redis cannot be reached"))
        redis.start()
        await eventually(lambda: works(store))
        assert store.failure is None


async def test_nobody_pays_the_timeout_when_redis_is_known_to_be_away(redis: RedisServer, opened: Open) -> None:
    async with Proxy(redis.socket, redis.folder / "proxy.sock") as proxy, opened(f"unix://{proxy.path}") as store:
        await eventually(lambda: works(store))
        proxy.delay_s = 60.0
        await assert_bounded(store)
        await eventually(lambda: _is(store.failure is not None))
        before, started_s = proxy.connections, time.monotonic()
        for _ in range(200):
            with pytest.raises(StateUnavailable):
                await store.admit(CLAIMS, holder="h")
        assert time.monotonic() - started_s < 200 * BOUND_S / 10
        assert proxy.connections - before <= 1 + (time.monotonic() - started_s) / 0.2


async def test_one_lost_connection_is_not_noticed_by_the_next_call(redis: RedisServer, opened: Open) -> None:
    async with Proxy(redis.socket, redis.folder / "proxy.sock") as proxy, opened(f"unix://{proxy.path}") as store:
        await eventually(lambda: works(store))
        proxy.cut()
        await asyncio.sleep(0.05)
        await eventually(lambda: works(store))
        assert store.failure is None


async def test_script_is_sent_again_when_redis_has_forgotten_it(redis: RedisServer, opened: Open) -> None:
    async with opened() as store:
        await eventually(lambda: works(store))
        redis.command("SCRIPT", "FLUSH")
        assert await works(store)
        assert store.failure is None


async def test_store_recovers_when_its_redis_was_demoted_and_promoted_again(redis: RedisServer, opened: Open) -> None:
    async with opened() as store:
        await eventually(lambda: works(store))
        redis.command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StateUnavailable):
            await store.admit(CLAIMS, holder="h")
        await eventually(lambda: _is(store.failure == "Redis is a read-only replica"))
        redis.command("REPLICAOF", "NO", "ONE")
        await eventually(lambda: works(store))


async def test_store_recovers_when_redis_had_no_memory_left(redis: RedisServer, opened: Open) -> None:
    async with opened() as store:
        await eventually(lambda: works(store))
        redis.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StateUnavailable):
            await store.admit(CLAIMS[:1], holder="h")
        await eventually(lambda: _is(store.failure == "Redis is out of memory"))
        redis.command("CONFIG", "SET", "maxmemory", "0")
        await eventually(lambda: works(store))


async def test_wrong_password_is_said_without_the_password_and_a_right_one_works(opened: Open) -> None:
    server = start_redis("--requirepass", "right")
    try:
        for password in ("wrong-secret", ""):
            async with opened(server.url, {"PW": password}, password_env="PW") as store:
                with pytest.raises(StateUnavailable) as refused:
                    await store.admit(CLAIMS, holder="h")
                assert "refuses the user or the password" in str(refused.value)
                assert "wrong-secret" not in str(refused.value) + repr(refused.value.__cause__)
        async with opened(server.url, {"PW": "right"}, password_env="PW") as store:
            await eventually(lambda: works(store))
    finally:
        server.stop()


@pytest.mark.parametrize("url", ["redis://192.0.2.1:6379/0", "redis://no-such-host.invalid/0", "unix:///no/socket"])
async def test_store_opens_in_time_when_its_redis_cannot_be_reached(opened: Open, url: str) -> None:
    async with asyncio.timeout(LONG_S), opened(url) as store:
        await assert_bounded(store)
        assert store.failure in ("timeout", "Redis cannot be reached")


async def test_store_works_by_tcp_as_well(redis: RedisServer, opened: Open) -> None:
    async with opened(redis.tcp_url) as store:
        await eventually(lambda: works(store))
        assert redis.command("DBSIZE") != "0"


async def test_time_is_that_of_the_server(opened: Open) -> None:
    async with opened() as store:
        await eventually(lambda: works(store))
        before_s = time.time()
        document = await store.write_document("d", b"", expected_version=None)
        assert before_s - 0.01 <= document.written_s <= time.time() + 0.01


async def test_tls_is_spoken_when_the_url_says_so(redis: RedisServer, opened: Open) -> None:
    """A server without TLS is refused: nothing is ever sent in the clear."""
    async with opened(redis.tcp_url.replace("redis://", "rediss://")) as store:
        assert not await works(store)
        assert redis.command("DBSIZE") == "0"


async def test_settlements_reach_redis_when_it_is_back(redis: RedisServer, opened: Open) -> None:
    async with opened() as store:
        await eventually(lambda: works(store))
        await store.admit([BUDGET], holder="before")
        redis.freeze()
        for _ in range(2):  # the first one may have arrived, the second one has not
            await store.settle([Adjust(BUDGET, 1.0)], holder="before")
        await store.settle([Adjust(BUDGET, 2.5)], holder="never claimed")
        redis.thaw()
        probe = Budget("b", limit=10, amount=0, resets="month")

        async def all_arrived() -> bool:
            try:
                return (await store.admit([probe], holder=str(time.monotonic()))).remaining[0] == pytest.approx(6.5)
            except StateUnavailable:
                return False

        await eventually(all_arrived)
        await asyncio.sleep(0.5)  # and no second time
        assert await all_arrived()


async def test_calls_that_wait_for_redis_go_through_when_it_comes_back_within_their_bound(opened: Open) -> None:
    async with opened() as store:
        await eventually(lambda: works(store))
        results = await asyncio.gather(*(store.admit(CLAIMS, holder=str(n)) for n in range(50)))
        assert all(verdict.admitted for verdict in results)


async def test_no_connection_is_left_when_the_store_is_closed(redis: RedisServer, opened: Open) -> None:
    async with opened() as store:
        await eventually(lambda: works(store))
    with socket.socket(socket.AF_UNIX) as ours:
        ours.connect(str(redis.socket))
        ours.sendall(b"INFO clients\r\n")
        assert b"connected_clients:1\r\n" in ours.recv(65536)


async def _is(value: bool) -> bool:
    return value
