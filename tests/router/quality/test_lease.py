"""One process at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from router.errors import StateUnavailable
from router.quality.lease import Lease
from router.state.memory import MemoryStore


class Renewals(MemoryStore):
    """Counts them."""

    count = 0

    def __init__(self, *, max_value_bytes: int) -> None:
        super().__init__(max_value_bytes=max_value_bytes)
        self.third = asyncio.Event()

    async def renew(self, holders: Sequence[str]) -> None:
        await super().renew(holders)
        self.count += 1
        if self.count == 3:
            self.third.set()


async def test_lease_is_ours_until_the_block_ends_and_then_anybodys() -> None:
    store = MemoryStore(max_value_bytes=1)
    mine, theirs = Lease(store, "work", lease_s=60.0), Lease(store, "work", lease_s=60.0)
    async with mine.held() as taken:
        assert taken
        async with theirs.held() as also_taken:
            assert not also_taken
    async with theirs.held() as taken:
        assert taken


async def test_lease_is_given_back_when_the_work_fails() -> None:
    lease = Lease(MemoryStore(max_value_bytes=1), "work", lease_s=60.0)
    with pytest.raises(ValueError, match="failed"):
        async with lease.held():
            raise ValueError("failed")
    async with lease.held() as taken:
        assert taken


async def test_lease_is_renewed_while_the_work_goes_on_and_no_longer() -> None:
    store = Renewals(max_value_bytes=1)
    async with Lease(store, "work", lease_s=0.01).held():
        await store.third.wait()
    seen = store.count
    await asyncio.sleep(0.05)
    assert store.count <= seen + 1  # one may have been under way


async def test_nobody_has_the_lease_while_the_shared_state_is_away() -> None:
    store = MemoryStore(max_value_bytes=1)
    store.failure = "refused"
    with pytest.raises(StateUnavailable):
        async with Lease(store, "work", lease_s=60.0).held():
            raise AssertionError
