"""How a link to a store breaks and recovers, with a wire that does what the test says."""

from __future__ import annotations

import asyncio
import time

import pytest

from router.errors import StateUnavailable
from router.state.batches import Batches
from router.state.link import Link
from router.state.operations import Operation, Renew, Settle
from router.state.settlements import Settlements


class FakeWire:
    def __init__(self) -> None:
        self.failing: Exception | None = None
        self.blocked = asyncio.Event()
        self.blocked.set()
        self.probes = 0
        self.batches: list[int] = []
        self.changes: list[bool] = []

    async def probe(self) -> None:
        self.probes += 1
        await self.run([])

    async def run(self, operations: list[Operation]) -> list[bool]:
        await self.blocked.wait()
        if self.failing is not None:
            raise self.failing
        if operations:
            self.batches.append(len(operations))
        return [True] * len(operations)

    def link(self, timeout_s: float = 20.0) -> Link:
        return Link(
            self.probe,
            timeout_s=timeout_s,
            reason_of=lambda error: "broken" if isinstance(error, OSError) else None,
            on_change=self.changes.append,
        )


async def _break() -> None:
    raise OSError


async def until(link: Link, *, down: bool) -> None:
    async with asyncio.timeout(10):
        while (link.failure is not None) != down:  # noqa: ASYNC110 - the link has no event for tests
            await asyncio.sleep(0.01)


async def test_link_is_up_when_the_first_probe_succeeds() -> None:
    wire = FakeWire()
    async with wire.link() as link:
        assert link.failure is None
        assert await link.call(lambda: wire.run([])) == []
    assert wire.changes == [True]


async def test_link_opens_and_fails_fast_when_the_store_is_away() -> None:
    wire = FakeWire()
    wire.failing = OSError()
    async with wire.link() as link:
        assert link.failure == "broken"
        probes = wire.probes
        for _ in range(100):
            with pytest.raises(StateUnavailable, match="broken"):
                await link.call(lambda: wire.run([]))
        assert wire.probes == probes
        wire.failing = None
        await until(link, down=False)
        await link.call(lambda: wire.run([]))
    assert wire.changes[0] is False
    assert wire.changes[-1] is True


async def test_link_stays_up_for_others_when_one_connection_breaks() -> None:
    wire = FakeWire()
    async with wire.link() as link:
        with pytest.raises(StateUnavailable):
            await link.call(_break)
        assert await link.call(lambda: wire.run([])) == []  # waits for the probe, which succeeds
    assert wire.changes == [True, True]


async def test_error_that_nobody_foresaw_is_logged_and_becomes_state_unavailable(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wire = FakeWire()
    async with wire.link() as link:
        wire.failing = ZeroDivisionError()
        with pytest.raises(StateUnavailable, match="internal error"):
            await link.call(lambda: wire.run([]))
        await until(link, down=True)
    assert "ZeroDivisionError" in caplog.text


async def test_operations_share_a_round_trip_when_one_is_under_way() -> None:
    wire = FakeWire()
    async with wire.link() as link:
        batches = Batches(link, wire.run, timeout_s=20.0)  # type: ignore[arg-type]
        wire.blocked.clear()
        first = asyncio.create_task(batches.do(Renew(("a",))))
        await asyncio.sleep(0.01)
        more = [asyncio.create_task(batches.do(Renew(("b",)))) for _ in range(9)]
        gone = asyncio.create_task(batches.do(Renew(("c",))))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0)
        wire.blocked.set()
        assert await asyncio.gather(first, *more) == [True] * 10
    assert wire.batches == [1, 9]


async def test_operation_ends_in_time_when_the_one_before_it_hangs() -> None:
    wire = FakeWire()
    async with wire.link(timeout_s=5.0) as link:
        batches = Batches(link, wire.run, timeout_s=0.05)  # type: ignore[arg-type]
        wire.blocked.clear()
        calls = [asyncio.create_task(batches.do(Renew((str(n),)))) for n in range(3)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [StateUnavailable] * 3
        wire.blocked.set()


async def test_reply_counts_when_it_came_in_time_to_a_busy_event_loop() -> None:
    wire = FakeWire()

    asked = asyncio.Event()

    async def run(operations: list[Operation]) -> list[bool]:
        asked.set()
        await asyncio.sleep(0.001)
        return [True] * len(operations)

    async with wire.link() as link:
        batches = Batches(link, run, timeout_s=0.05)  # type: ignore[arg-type]
        asking = asyncio.create_task(batches.do(Renew(("a",))))
        await asked.wait()
        time.sleep(0.2)  # noqa: ASYNC251 - the reply and the bound are both over when the loop goes on
        assert await asking is True
        assert link.failure is None


@pytest.mark.parametrize(
    ("reachable", "late_s", "delivered"),
    [(False, 3600, True), (True, 10, True), (True, 3600, False)],
    ids=["never sent", "perhaps sent", "perhaps sent, long ago"],
)
async def test_settlement_is_repeated_as_long_as_the_store_would_know_it(
    reachable: bool, late_s: float, delivered: bool
) -> None:
    now_s = 0.0
    wire = FakeWire()
    if not reachable:
        wire.failing = OSError()
    async with wire.link() as link:
        batches = Batches(link, wire.run, timeout_s=20.0)  # type: ignore[arg-type]
        settlements = Settlements(link, batches, wire.run, clock=lambda: now_s)  # type: ignore[arg-type]
        wire.failing = OSError()
        await settlements.settle(Settle("holder", ()))
        await until(link, down=True)
        now_s = late_s
        wire.failing = None
        await until(link, down=False)
        await settlements.stop()
    assert wire.batches == ([1] if delivered else [])
