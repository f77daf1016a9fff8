"""Budgets and votes that several processes share, over outages and restarts; draws that replay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from policies.base import Quote, RequestFeatures
from policies.governor import DailyBudget
from policies.pacer import Pacer
from router.chat import ChatRequest
from router.decision_ids import DecisionIds, with_level, with_route
from router.errors import StateUnavailable
from router.governance.lots import lot_of, uniform
from router.governance.paced import SAVE_S, SharedPacer
from router.governance.shadow_votes import ShadowVotes
from router.state.base import Document
from router.state.memory import MemoryStore

NOON_S = 20_000 * 86_400.0 + 43_200.0
SEEN = RequestFeatures(prompt_bytes=1, message_count=1, approx_prompt_tokens=100, requested_output_tokens=2048)


class Clock:
    now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


class FlakyStore(MemoryStore):
    """Away while `away` is set."""

    away = False

    async def read_document(self, name: str) -> Document | None:
        await asyncio.sleep(0)  # lets another one be faster
        if self.away:
            raise StateUnavailable("the store is away")
        return await super().read_document(name)


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.store = FlakyStore(max_value_bytes=2**20, clock=self.clock)

    def replica(self, name: str, tokens: float = 100_000.0) -> SharedPacer:
        pacer = Pacer(DailyBudget(purpose="teacher", tokens=tokens), member=name)
        return SharedPacer(
            pacer, self.store, name="governance/teacher", file=self.folder / f"{name}.state", clock=self.clock
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def spend(replica: SharedPacer, tokens: int) -> None:
    replica.pacer.spent(SEEN, NOON_S, 0, tokens, Quote(price=0.0, cost=tokens / 1_000, tokens=tokens))


async def test_nothing_is_lost_or_counted_twice_when_many_replicas_sync_at_once(world: World) -> None:
    replicas = [world.replica(f"r{number}") for number in range(6)]
    for _ in range(5):
        for replica in replicas:
            spend(replica, 1_000)
        await asyncio.gather(*(replica.sync() for replica in replicas))
        world.clock.now_s += 3.0
    for replica in replicas:
        await replica.sync()
    assert {round(replica.pacer.state.spent, 6) for replica in replicas} == {30.0}


async def test_price_is_the_same_everywhere_when_the_budget_is_overspent_by_one(world: World) -> None:
    one, other = world.replica("a"), world.replica("b")
    spend(one, 120_000)
    for replica in (one, other):
        await replica.sync()
    assert one.pacer.state.price == other.pacer.state.price > 1.0


async def test_replica_goes_on_alone_when_the_store_is_away_and_pays_when_it_is_back(world: World) -> None:
    one, other = world.replica("a"), world.replica("b")
    for replica in (one, other, one):
        await replica.sync()
    world.store.away = True
    spend(one, 4_000)
    world.clock.now_s += 3.0
    await one.sync()
    assert one.pacer.state.spent == pytest.approx(8.0)  # as much is taken to be spent by the other one
    world.store.away = False
    for replica in (one, other):
        await replica.sync()
    assert other.pacer.state.spent == pytest.approx(4.0)


async def test_spend_survives_when_the_store_and_its_gateway_are_gone(world: World) -> None:
    one = world.replica("a")
    spend(one, 5_000)
    world.clock.now_s += SAVE_S
    await one.sync()
    world.store = FlakyStore(max_value_bytes=2**20, clock=world.clock)
    again = world.replica("a")
    await again.sync()
    assert again.pacer.state.spent == pytest.approx(5.0)


async def test_damaged_file_and_foreign_state_begin_anew(world: World) -> None:
    (world.folder / "a.state").write_bytes(b"\xff damaged")
    await world.store.write_document("governance/teacher", b"not msgpack", expected_version=0)
    one = world.replica("a")
    spend(one, 2_000)
    await one.sync()
    assert one.pacer.state.spent == pytest.approx(2.0)


async def test_shadow_votes_add_up_over_processes_and_wait_when_the_store_is_away(world: World) -> None:
    one, other = ShadowVotes(world.store), ShadowVotes(world.store)
    for votes in (one, other):
        for _ in range(3):
            votes.add("aa")
    world.store.away = True
    await one.sync()
    world.store.away = False
    await asyncio.gather(one.sync(), other.sync())
    other.add("bb")
    assert await other.counts() == {"aa": 6, "bb": 1}
    assert await one.counts() == {"aa": 6}


def test_draw_follows_from_the_id_whatever_is_written_into_it_later() -> None:
    ids = DecisionIds()
    drawn = []
    for _ in range(2_000):
        first = ids.next()
        drawn.append(uniform(first))
        assert uniform(with_route(with_level(first, "full"), "teacher")) == drawn[-1]
    assert sum(each < 0.1 for each in drawn) == pytest.approx(200, abs=60)
    assert min(drawn) >= 0.0
    assert max(drawn) < 1.0


@pytest.mark.parametrize(
    ("router", "level", "both", "expected"),
    [
        ('{"explore": false}', "full", True, "opted_out"),
        ('{"purpose": "eval"}', "full", True, "not_traffic"),
        ("{}", "none", True, "not_recorded"),
        ("{}", "metadata", True, None),
        ("{}", "full", False, "not_allowed"),
        ('{"explore": true, "purpose": "traffic"}', "full", True, None),
    ],
)
def test_request_is_excluded_from_exploration_with_its_reason(
    router: str, level: str, both: bool, expected: str | None
) -> None:
    body = f'{{"model": "auto", "store": false, "messages": [{{"role": "user", "content": "x"}}], "router": {router}}}'
    request = ChatRequest.parse(body.encode(), [])
    decision_id = with_level(DecisionIds().next(), level)  # type: ignore[arg-type]
    assert lot_of(request, decision_id, share=1.0, reviewed=False, both_models=both).excluded == expected
