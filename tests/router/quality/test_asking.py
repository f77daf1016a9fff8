"""Asking the other model: what it costs by its machine, and which replica is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from loadtests.fake_backend import FakeBackend
from router.additions import NOTHING
from router.backends import Backend
from router.chat import ChatRequest
from router.config import StudentConfig
from router.config.quality import ShadowConfig
from router.config.resilience import BreakerConfig, ResilienceConfig
from router.generations import Generations
from router.machine import MachineClock, OwnRegister
from router.quality.asking import Asked, OtherModels
from router.quality.budget import DailyBudget
from router.resilience.pool import Pool
from router.state.memory import MemoryStore
from tests.traffic_records import decision

REQUEST = b'{"model": "auto", "messages": [{"role": "user", "content": "[[%b]]"}]}'


class Ticking:
    """A clock that is a second later whenever it is looked at."""

    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


class Generation:
    """A student in use."""

    bundle_id = "bundle-1"
    wanted = NOTHING

    def __init__(self, student: Pool) -> None:
        self.student = student
        self.users = 0
        self.most_users = 0

    def enter(self) -> None:
        self.users += 1
        self.most_users = max(self.most_users, self.users)

    def leave(self) -> None:
        self.users -= 1


def student(url: str, *, machine: MachineClock | None = None, **options: Any) -> Backend:
    return Backend("student", StudentConfig(base_url=url, model="student", **options), {}, machine=machine)


def models(pool: Pool) -> tuple[OtherModels, Generation]:
    generation = Generation(pool)
    asking = OtherModels(
        ShadowConfig(),
        teacher=pool,
        generations=cast(Generations, SimpleNamespace(current=generation)),
        budget=DailyBudget(MemoryStore(max_value_bytes=1), "shadow", 10.0),
        max_response_bytes=2**20,
        environ={},
    )
    return asking, generation


async def ask(asking: OtherModels, directive: bytes = b"fake") -> Asked:
    return await asking.ask(decision(1), ChatRequest.parse(REQUEST % directive, ()), "student")


async def test_student_without_a_price_list_costs_its_machines_time() -> None:
    async with FakeBackend(models=("student",)) as backend:
        clock = MachineClock(3600.0, OwnRegister(0.0), Ticking())
        asking, generation = models(Pool([student(backend.base_url, machine=clock)], ResilienceConfig()))
        async with asking:
            asked = await ask(asking)
            failed = await ask(asking, b"fault-500")
    assert (asked.status, asked.student, asked.cost_usd) == ("ok", "bundle-1", pytest.approx(1.0))
    assert (failed.status, failed.cost_usd) == ("error", None)
    assert (generation.users, generation.most_users) == (0, 1)


async def test_price_list_counts_where_there_is_one() -> None:
    async with FakeBackend(models=("student",)) as backend:
        clock = MachineClock(3600.0, OwnRegister(0.0), Ticking())
        prices = {"price_usd_per_1m_input_tokens": 1e6, "price_usd_per_1m_output_tokens": 0.0}
        priced = student(backend.base_url, machine=clock, **prices)
        asking, _ = models(Pool([priced], ResilienceConfig()))
        async with asking:
            asked = await ask(asking, b"fake-prompt-tokens-7")
    assert asked.cost_usd == pytest.approx(7.0)


async def test_replica_with_an_open_breaker_is_passed_over_and_the_least_busy_one_is_asked() -> None:
    async with FakeBackend(models=("student",)) as busy, FakeBackend(models=("student",)) as idle:
        pool = Pool(
            [student("http://127.0.0.1:9/v1"), student(busy.base_url), student(idle.base_url)],
            ResilienceConfig(breaker=BreakerConfig(consecutive_failures=1)),
        )
        broken, first, _ = pool.replicas
        broken.breaker.leave(broken.breaker.enter(), ok=False)
        first.inflight = 3
        asking, _ = models(pool)
        async with asking:
            assert (await ask(asking)).status == "ok"
            assert len(idle.state.received) == 1
            assert not busy.state.received
            for replica in pool.replicas[1:]:
                replica.breaker.leave(replica.breaker.enter(), ok=False)
            assert (await ask(asking)).status == "skipped_unavailable"


async def test_connections_to_a_student_that_was_replaced_are_closed() -> None:
    async with FakeBackend(models=("student",)) as old, FakeBackend(models=("student",)) as new:
        asking, generation = models(Pool([student(old.base_url)], ResilienceConfig()))
        async with asking:
            await ask(asking)
            teacher = asking._teacher
            asking._teacher = generation.student = Pool([student(new.base_url)], ResilienceConfig())
            await ask(asking)
            assert teacher.replicas[0].backend not in asking._twins
            assert list(asking._twins) == [generation.student.replicas[0].backend]
            assert len(new.state.received) == 1
