"""Requests go where there is room, and where their conversation or prompt is known."""

from __future__ import annotations

from collections import Counter
from random import Random

from router.resilience.pool import Pool
from router.resilience.replica import Replica
from router.resilience.spread import bound, least_loaded
from tests.router.resilience.fakes import FakeClock, Request, engine, pool


def homes(of: Pool, keys: int = 200) -> dict[int, str]:
    return {number: bound(of.replicas, b"session-%d" % number).name for number in range(keys)}


def test_least_loaded_of_two_avoids_the_busiest_replica() -> None:
    replicas = pool(FakeClock(), "a", "b", "c").replicas
    replicas[1].inflight = 9
    random = Random(3)
    chosen = Counter(least_loaded(replicas, random).name for _ in range(300))
    assert chosen["b"] == 0
    assert min(chosen["a"], chosen["c"]) > 100


def test_load_evens_out_when_requests_stay() -> None:
    replicas = pool(FakeClock(), *"abcdefgh").replicas
    random = Random(3)
    for _ in range(800):
        least_loaded(replicas, random).inflight += 1
    counts = [replica.inflight for replica in replicas]
    assert max(counts) - min(counts) <= 6


def test_engines_loads_count_more_than_our_own_requests() -> None:
    replicas = pool(FakeClock(), "a", "b").replicas
    replicas[0].inflight = 4
    replicas[0].observe(engine(running=4))
    replicas[1].observe(engine(running=30))  # another gateway's requests
    assert {least_loaded(replicas, Random(seed)).name for seed in range(20)} == {"a"}


def test_session_stays_at_its_replica_and_sessions_are_spread_evenly() -> None:
    first, again = homes(pool(FakeClock(), *"abcd")), homes(pool(FakeClock(), *"dcba"))
    assert first == again  # in another process, and in another order
    assert min(Counter(first.values()).values()) > 30


def test_only_the_sessions_of_a_lost_replica_move() -> None:
    before, after = homes(pool(FakeClock(), *"abcd")), homes(pool(FakeClock(), *"abd"))
    moved = {number for number in before if before[number] != after[number]}
    assert moved == {number for number, name in before.items() if name == "c"}


def test_session_leaves_its_replica_while_that_has_more_than_its_share() -> None:
    replicas = pool(FakeClock(), "a", "b", "c").replicas
    home = bound(replicas, b"chat")
    for replica in replicas:
        replica.inflight = 4
    assert bound(replicas, b"chat") is home
    home.inflight = 20
    assert bound(replicas, b"chat") is not home
    home.inflight = 4
    assert bound(replicas, b"chat") is home


def test_one_hot_key_cannot_overload_its_replica() -> None:
    replicas = pool(FakeClock(), "a", "b", "c", "d").replicas
    for _ in range(400):
        bound(replicas, b"the same system prompt").inflight += 1
    assert max(replica.inflight for replica in replicas) <= 1.25 * 400 / 4 + 2


def test_pool_binds_by_session_or_by_the_prompts_beginning() -> None:
    by_session = pool(FakeClock(), *"abcd", spread="session")
    assert len({name(by_session.choose(Request("chat-1"))) for _ in range(20)}) == 1
    assert len({name(by_session.choose(Request())) for _ in range(40)}) == 4
    by_prefix = pool(FakeClock(), *"abcd", spread="prefix")
    system = b"You are a careful assistant. " * 50
    assert len({name(by_prefix.choose(Request(None, system + b"%d" % n))) for n in range(20)}) == 1
    assert len({name(by_prefix.choose(Request(None, b"%d" % n + system))) for n in range(40)}) == 4
    assert len({name(by_prefix.choose(Request("chat-1"))) for _ in range(40)}) == 4


def name(replica: Replica | None) -> str:
    assert replica is not None
    return replica.name
