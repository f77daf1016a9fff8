"""One budget for all who measure quality, in whichever process they run."""

from __future__ import annotations

import asyncio
import math

import pytest

from router.errors import StateUnavailable
from router.quality.budget import DailyBudget
from router.state.memory import MemoryStore

DAY_S = 86_400.0
NOON_S = 1_763_812_800.0


class Clock:
    now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


class AwayStore(MemoryStore):
    async def admit(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
        raise StateUnavailable("the shared state is away")


def test_two_workers_never_spend_more_than_the_budget_between_them() -> None:
    store = MemoryStore(max_value_bytes=1, clock=Clock())
    spent: list[float] = []

    async def worker(name: str, actual_usd: float) -> None:
        budget = DailyBudget(store, "shadow", 1.0)
        for number in range(100):
            if await budget.reserve(f"{name}{number}", 0.03):
                await asyncio.sleep(0)
                await budget.settle(f"{name}{number}", 0.03, actual_usd)
                spent.append(actual_usd)

    async def run() -> None:
        await asyncio.gather(worker("a", 0.03), worker("b", 0.02))

    asyncio.run(run())
    assert 0.95 < math.fsum(spent) <= 1.0 + 1e-9


def test_what_nobody_knows_the_cost_of_stays_charged_until_the_next_day() -> None:
    clock = Clock()
    budget = DailyBudget(MemoryStore(max_value_bytes=1, clock=clock), "shadow", 1.0)

    async def run() -> None:
        assert await budget.reserve("a", 0.6)
        await budget.settle("a", 0.6, None)
        assert not await budget.reserve("b", 0.6)
        assert await budget.reserve("c", 0.6 * 0.5)
        clock.now_s += DAY_S
        assert await budget.reserve("d", 0.6)

    asyncio.run(run())


def test_names_have_budgets_of_their_own_and_no_limit_asks_nobody() -> None:
    store = MemoryStore(max_value_bytes=1, clock=Clock())

    async def run() -> None:
        assert await DailyBudget(store, "shadow", 1.0).reserve("a", 1.0)
        assert await DailyBudget(store, "judge", 1.0).reserve("a", 1.0)
        assert not await DailyBudget(store, "shadow", 1.0).reserve("b", 0.1)
        unlimited = DailyBudget(AwayStore(max_value_bytes=1), "shadow", None)
        assert await unlimited.reserve("a", 1e9)
        await unlimited.settle("a", 1e9, None)

    asyncio.run(run())


@pytest.mark.parametrize("limit_usd", [0.0, 1.0])
def test_nothing_is_spent_when_the_budget_cannot_be_asked_or_is_nothing(limit_usd: float) -> None:
    away = DailyBudget(AwayStore(max_value_bytes=1), "shadow", limit_usd)
    assert not asyncio.run(away.reserve("a", 0.0))
    there = DailyBudget(MemoryStore(max_value_bytes=1), "shadow", 0.0)
    assert not asyncio.run(there.reserve("a", 0.0))
