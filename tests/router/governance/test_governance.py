"""Budgets and votes that several processes share, over outages and restarts; draws that replay."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from policies.base import Quote, RequestFeatures, RouteDecision, escalate
from policies.budget import Budget
from policies.chain import Evaluation, PolicyChain, Vote
from policies.governing import Governors
from policies.governor import DailyBudget
from policies.pacer import Pacer
from policies.record import Draft, Held, LateEnding, Usage
from router.chat import ChatRequest
from router.decision_ids import DecisionIds, with_level, with_route
from router.errors import StateUnavailable
from router.governance.governance import Governance
from router.governance.lots import lot_of, uniform
from router.governance.paced import SAVE_S, SharedPacer
from router.governance.shadow_votes import ShadowVotes
from router.metrics import Metrics
from router.pricing import Price
from router.state.base import Document
from router.state.memory import MemoryStore
from tests.traffic_records import decision

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


REST = Usage(prompt_tokens=700, completion_tokens=50)
PRICE = Price(input_usd=2.0, output_usd=10.0)


async def charged(world: World, budget: Budget, *, votes: tuple[Vote, ...] = (), times: int = 1) -> tuple[float, float]:
    """The share of the budget that is spent after streams which the student began and the teacher ended, and how long
    the teacher's answers are expected to be."""
    chain = PolicyChain(
        [], version="v", default_route="student", on_policy_error="teacher", governors=Governors([budget], version="v")
    )
    metrics = Metrics()
    governance = Governance(world.store, metrics, folder=world.folder, price=lambda: PRICE, clock=world.clock)
    governance.follow(chain)
    request = ChatRequest.parse(b'{"model": "auto", "messages": [{"role": "user", "content": "x"}]}', [])

    def informed() -> RequestFeatures:
        return governance.informed(SEEN, request, "", reviewed=True, both_models=True)

    late = LateEnding(tokens=20, action="continue", alarm=escalate("late"), usage=REST, cost_usd=0.0019)
    record = decision(
        1,
        created_s=NOON_S,
        decision=RouteDecision(route="student", reason="x"),
        route="student",
        votes=votes,
        usage=Usage(prompt_tokens=1_400, completion_tokens=70),
        draft=Draft(text="y", prefix=True, window=Held(held_s=0.1, late=late)),
    )
    for _ in range(times):
        evaluation = Evaluation(decision=record.decision, votes=votes, features=informed())
        decider = SimpleNamespace(chain=chain)
        state = SimpleNamespace(
            cached=None, called_s=1.0, evaluation=evaluation, generation=SimpleNamespace(decider=decider)
        )
        governance.settle(cast(Any, state), record)
    await governance.sync()
    (family,) = metrics.budget_spent.collect()
    quote = informed().signals.quote
    assert isinstance(quote, Quote)
    return family.samples[0].value, quote.tokens


@pytest.mark.parametrize(
    ("budget", "spent"),
    [(Budget(tokens_per_day=7_500), 0.1), (Budget(usd_per_day=0.019), 0.1)],
    ids=["tokens", "usd"],
)
async def test_budget_is_charged_the_part_of_a_teacher_that_went_on_when_an_alarm_rang_late(
    world: World, budget: Budget, spent: float
) -> None:
    assert (await charged(world, budget))[0] == pytest.approx(spent)


async def test_rest_of_an_answer_teaches_no_length_when_the_request_had_been_too_dear(world: World) -> None:
    dear = (
        Vote(policy="hard", route="teacher", reason="hard", score=0.9, threshold=0.5),
        Vote(policy="budget", route="student", reason="over_price"),
    )
    budget = Budget(tokens_per_day=10_000_000)
    _, before = await charged(world, budget)
    spent, after = await charged(world, budget, votes=dear, times=300)
    assert spent == pytest.approx(301 * 750 / 10_000_000)
    assert after == before
