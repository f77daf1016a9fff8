"""What goes on without the store, as it is configured."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from router.config.state import OnFailureConfig
from router.errors import StateUnavailable
from router.metrics import Metrics
from router.state.base import Adjust, Budget, Rate, Slots
from router.state.failover import FailoverStore
from router.state.linked import LinkedStore
from router.state.memory import MemoryStore
from router.state.remote import SocketWire
from router.state.server import StoreServer
from tests.router.state.test_redis_outages import eventually

RATE = Rate("r", 60, 30)
BUDGET = Budget("b", 10, 4, "month")
SLOT = Slots("s", 1, 30)


class Outage:
    """A store behind a socket that can be taken away."""

    def __init__(self, on_failure: OnFailureConfig) -> None:
        self.metrics = Metrics()
        self.memory = MemoryStore(max_value_bytes=1024)
        self._path = Path(tempfile.mkdtemp(prefix="locum-store-")) / "store.sock"
        linked = LinkedStore(SocketWire(self._path), timeout_s=20.0, on_change=self.metrics.state_up.set)
        self.store = FailoverStore(linked, on_failure, self.metrics)
        self._server = AsyncExitStack()

    async def begin(self) -> None:
        await self._server.aclose()
        await eventually(self._is_away)

    async def end(self) -> None:
        await self._server.enter_async_context(StoreServer(self.memory, self._path))
        await eventually(self._is_back)

    async def _is_away(self) -> bool:
        await self.store.get("anything")
        return self.store.failure is not None

    async def _is_back(self) -> bool:
        return self.store.failure is None

    def counted(self, feature: str) -> float:
        return self.metrics.registry.get_sample_value("router_state_errors_total", {"feature": feature}) or 0.0

    @property
    def up(self) -> float | None:
        return self.metrics.registry.get_sample_value("router_state_up")


Start = Callable[..., AbstractAsyncContextManager[Outage]]


@pytest.fixture
def outage() -> Start:
    @asynccontextmanager
    async def start(**on_failure: str) -> AsyncIterator[Outage]:
        made = Outage(OnFailureConfig.model_validate(on_failure))
        async with made.store:
            await made.end()
            yield made
            await made._server.aclose()

    return start


async def test_limits_are_enforced_by_each_process_when_they_fail_open(outage: Start) -> None:
    async with outage() as it:
        assert it.up == 1
        await it.begin()
        verdicts = [await it.store.admit([RATE, SLOT], holder=str(n)) for n in range(2)]
        assert [verdict.admitted for verdict in verdicts] == [True, False]
        assert (it.counted("limits"), it.counted("concurrency"), it.counted("budgets")) == (2, 2, 0)
        assert it.up == 0
        await it.store.settle([Adjust(SLOT)], holder="0")
        await it.store.renew(["0"])
        assert (await it.store.admit([SLOT], holder="2")).admitted


async def test_request_is_refused_when_one_of_its_features_fails_closed(outage: Start) -> None:
    async with outage(budgets="closed") as it:
        await it.begin()
        assert (await it.store.admit([RATE], holder="a")).admitted
        with pytest.raises(StateUnavailable) as refused:
            await it.store.admit([RATE, BUDGET], holder="b")
        assert (refused.value.status, refused.value.retry_after_s) == (503, 1)


async def test_what_was_spent_meanwhile_is_charged_when_the_store_is_back(outage: Start) -> None:
    async with outage() as it:
        await it.store.admit([BUDGET, RATE], holder="before")
        await it.begin()
        await it.store.admit([BUDGET, RATE], holder="meanwhile")
        await it.store.settle([Adjust(BUDGET, 3.0), Adjust(RATE, 10_000.0)], holder="meanwhile")
        await it.store.settle([Adjust(BUDGET, 1.0), Adjust(RATE, 30.0)], holder="before")
        await it.end()

        async def left() -> tuple[float, ...]:
            return (await it.memory.admit([Budget("b", 10, 0, "month"), Rate("r", 60, 0)], holder="probe")).remaining

        async def charged() -> bool:
            return (await left())[0] == pytest.approx(6.0)

        await eventually(charged)
        assert (await left())[1] >= 29


async def test_cached_answers_are_missing_and_documents_unreadable_when_the_store_is_away(outage: Start) -> None:
    async with outage() as it:
        await it.store.put("key", b"value", ttl_s=60)
        assert await it.store.get("key") == b"value"
        await it.begin()
        assert await it.store.get("key") is None
        await it.store.put("key", b"new", ttl_s=60)
        with pytest.raises(StateUnavailable):
            await it.store.read_document("policy")
        with pytest.raises(StateUnavailable):
            await it.store.write_document("policy", b"", expected_version=None)
        assert it.counted("cache") >= 2
        assert it.counted("documents") == 2


async def test_watcher_goes_on_when_the_store_is_back(outage: Start) -> None:
    async with outage() as it:
        seen = it.store.watch("policy")
        await it.store.write_document("policy", b"one", expected_version=0)
        assert (await anext(seen)).version == 1
        await it.begin()
        await it.memory.write_document("policy", b"two", expected_version=1)
        await it.end()
        assert (await anext(seen)).content == b"two"
