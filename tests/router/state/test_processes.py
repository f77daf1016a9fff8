"""Limits hold exactly over several processes."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from router.config import StateConfig
from router.state.base import Adjust, Budget, Claim, Rate, Slots
from router.state.linked import LinkedStore
from router.state.memory import MemoryStore
from router.state.redis import RedisWire
from router.state.server import StoreServer
from tests.router.state.conftest import PATIENT_S, Clock, RedisServer

PROCESSES = 4
CLAIMANT = Path(__file__).with_name("claimant.py")


@pytest.mark.system
@pytest.mark.timeout(400)  # four interpreters start on a busy machine
@pytest.mark.parametrize("kind", ["redis", "remote"])
async def test_limits_are_exact_when_four_processes_share_them(kind: str, shared_redis: RedisServer) -> None:
    async with AsyncExitStack() as running:
        if kind == "redis":
            place = shared_redis.url
        else:
            path = Path(tempfile.mkdtemp(prefix="locum-store-")) / "store.sock"
            await running.enter_async_context(StoreServer(MemoryStore(max_value_bytes=0), path))
            place = str(path)
        prefix = f"exact-{time.monotonic_ns()}"
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable, str(CLAIMANT), kind, place, prefix, str(number),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3],
                env={"PYTHONPATH": str(Path(__file__).parents[3])},
            )
            for number in range(PROCESSES)
        ]  # fmt: skip
        outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    results = [json.loads(output) for output, _ in outputs]
    assert sum(result["budget"] for result in results) == 1000 // 7
    assert sum(result["slots"] for result in results) == 25


async def test_redis_decides_like_memory_when_both_see_the_same_calls(shared_redis: RedisServer) -> None:
    clock = Clock(1_800_000_000.0)
    memory = MemoryStore(max_value_bytes=0, clock=clock)
    config = StateConfig(url=shared_redis.url, key_prefix=f"same-{time.monotonic_ns()}", timeout_s=PATIENT_S)
    chance = random.Random(7)
    generation_s = clock.now_s
    async with LinkedStore(RedisWire(config, {}, clock=clock), timeout_s=PATIENT_S) as redis:
        for step in range(400):
            clock.now_s += chance.choice((0, 0, 0, 0.7, 10, 20, 7200))
            if clock.now_s - generation_s > 50:  # Redis forgets holders by its own clock, which does not jump
                generation_s = clock.now_s
            holder = f"{generation_s}/{chance.randrange(8)}"
            claims = _some_claims(chance)
            action = chance.choice(("admit", "admit", "settle", "renew"))
            if action == "admit":
                expected, found = [await store.admit(claims, holder=holder) for store in (memory, redis)]
                where = f"step {step}, {claims}"
                assert (found.admitted, found.denied_by) == (expected.admitted, expected.denied_by), where
                assert found.remaining == pytest.approx(expected.remaining), where
                assert found.reset_s == pytest.approx(expected.reset_s), where
                assert found.retry_after_s == pytest.approx(expected.retry_after_s), where
            elif action == "settle":
                adjustments = [Adjust(claim, float(chance.randrange(4))) for claim in claims]
                for store in (memory, redis):
                    await store.settle(adjustments, holder=holder)
            else:
                for store in (memory, redis):
                    await store.renew([holder])


def _some_claims(chance: random.Random) -> list[Claim]:
    amount = float(chance.randrange(1, 4))
    kinds: list[Claim] = [
        Rate("rate", per_minute=6, amount=amount),
        Budget("money", limit=20, amount=amount, resets="day"),
        Budget("money", limit=60, amount=amount, resets="month"),
        Slots("slots", limit=3, ttl_s=25),
    ]
    return chance.sample(kinds, chance.randrange(1, 5))
