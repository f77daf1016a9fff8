"""The queue: who waits, who is let in next, and who is not let wait at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from router.admission.line import Line, NoPlace, Refusal


def line(*, places: int = 1, queued: int = 10, max_wait_s: float = 60.0) -> Line:
    return Line(max_inflight=places, max_queued=queued, max_wait_s=max_wait_s)


def later(seconds: float = 60.0) -> float:
    return asyncio.get_running_loop().time() + seconds


class Arrivals:
    """Requests that enter in the order in which they are given, and note the order in which they are let in."""

    def __init__(self, waiting_line: Line) -> None:
        self.line = waiting_line
        self.let_in: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def add(self, *names: str) -> None:
        for name in names:
            self.tasks[name] = asyncio.create_task(self._enter(name))
            await asyncio.sleep(0)

    async def _enter(self, name: str) -> None:
        await self.line.enter(name[0], deadline_s=later())
        self.let_in.append(name)

    async def finish(self, *tenants: str, held_s: float | None = None) -> None:
        for tenant in tenants:
            self.line.leave(tenant, held_s)
            await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def refusal_of(waiting: Awaitable[None]) -> NoPlace:
    with pytest.raises(NoPlace) as caught:
        await waiting
    return caught.value


async def test_line_lets_in_at_once_when_a_place_is_free() -> None:
    queue = line(places=2)
    assert queue.try_enter("a")
    assert queue.try_enter("b")
    assert not queue.try_enter("c")
    assert (queue.inflight, queue.waiting) == (2, 0)


async def test_line_lets_tenants_in_by_turns_when_one_has_many_waiting() -> None:
    requests = Arrivals(line())
    await requests.add("x0", "a1", "a2", "a3", "b1", "b2", "c1")
    await requests.finish("x", "a", "b", "c", "a", "b")
    assert requests.let_in == ["x0", "a1", "b1", "c1", "a2", "b2", "a3"]


async def test_line_lets_a_tenant_in_in_its_order() -> None:
    requests = Arrivals(line())
    await requests.add("a0", "a1", "a2", "a3")
    await requests.finish("a", "a", "a")
    assert requests.let_in == ["a0", "a1", "a2", "a3"]


async def test_line_refuses_when_the_queue_is_full_of_the_same_tenant() -> None:
    requests = Arrivals(line(queued=2))
    await requests.add("a0", "a1", "a2")
    refused = await refusal_of(requests.line.enter("a", deadline_s=later()))
    assert refused.reason is Refusal.QUEUE_FULL
    assert requests.line.waiting == 2


async def test_newcomer_displaces_the_last_of_the_tenant_that_fills_the_queue() -> None:
    requests = Arrivals(line(queued=3))
    await requests.add("a0", "a1", "a2", "a3", "b1")
    refused = await refusal_of(requests.tasks["a3"])
    assert refused.reason is Refusal.QUEUE_FULL
    await requests.finish("a", "a", "b")
    assert requests.let_in == ["a0", "a1", "b1", "a2"]


async def test_newcomer_displaces_nobody_when_all_have_the_same_share() -> None:
    requests = Arrivals(line(queued=2))
    await requests.add("x0", "a1", "b1")
    refused = await refusal_of(requests.line.enter("c", deadline_s=later()))
    assert refused.reason is Refusal.QUEUE_FULL


async def test_line_refuses_at_once_when_the_wait_would_outlast_the_deadline() -> None:
    requests = Arrivals(line())
    await requests.add("a0")
    await requests.finish("a", held_s=4.0)
    await requests.add("a0", "a1")
    refused = await refusal_of(requests.line.enter("a", deadline_s=later(11.0)))  # starts after 8 s, takes 4 s
    assert refused.reason is Refusal.TOO_LATE
    assert refused.wait_s == pytest.approx(8.0)
    assert not refused.at_tenant_limit
    waits = asyncio.create_task(requests.line.enter("a", deadline_s=later(13.0)))
    await settled()
    assert requests.line.waiting == 2
    waits.cancel()


async def test_expected_wait_counts_turns_and_not_the_queue_when_another_tenant_has_many_waiting() -> None:
    requests = Arrivals(line(queued=100, max_wait_s=5.0))
    await requests.add("x0")
    await requests.finish("x", held_s=1.0)
    await requests.add("x0", "a1", "a2", "a3", "a4")
    refused = await refusal_of(requests.line.enter("a", deadline_s=later(3.0)))
    assert refused.wait_s == pytest.approx(5.0)
    await requests.add("b1")  # in turn after a1: 2 s
    assert requests.line.waiting == 5


async def test_waiting_ends_when_the_deadline_comes_nearer_than_a_request_takes() -> None:
    queue = line()
    assert queue.try_enter("a")
    refused = await refusal_of(queue.enter("a", deadline_s=later(0.01)))
    assert refused.reason is Refusal.TOO_LATE
    assert queue.waiting == 0


async def test_waiting_ends_after_the_longest_wait_of_the_queue() -> None:
    queue = line(max_wait_s=0.01)
    assert queue.try_enter("a")
    assert (await refusal_of(queue.enter("a", deadline_s=later()))).reason is Refusal.TOO_LATE


async def test_cancelled_waiter_leaves_no_trace() -> None:
    requests = Arrivals(line())
    await requests.add("a0", "a1", "a2", "b1")
    for name in ("a1", "b1"):
        requests.tasks[name].cancel()
    await settled()
    assert requests.line.waiting == 1
    await requests.finish("a", "a")
    assert requests.let_in == ["a0", "a2"]
    assert requests.line.inflight == requests.line.waiting == 0
    assert requests.line.try_enter("b")


async def test_place_is_passed_on_when_its_waiter_is_cancelled_in_the_moment_of_its_turn() -> None:
    requests = Arrivals(line())
    await requests.add("a0", "a1", "b1")
    requests.line.leave("a")  # a1 has the place now, and does not know it yet
    requests.tasks["a1"].cancel()
    await settled()
    assert requests.let_in == ["a0", "b1"]
    assert requests.line.inflight == 1


async def test_turn_goes_to_the_next_when_a_waiter_was_cancelled_just_before() -> None:
    requests = Arrivals(line())
    await requests.add("a0", "a1", "b1")
    requests.tasks["a1"].cancel()
    requests.line.leave("a")
    await settled()
    assert requests.let_in == ["a0", "b1"]
    assert (requests.line.inflight, requests.line.waiting) == (1, 0)


async def test_tenant_at_its_limit_holds_up_nobody_else() -> None:
    requests = Arrivals(line(places=2))
    await requests.add("a0", "a1")
    stepped_back = asyncio.create_task(requests.line.step_back("a", limit=1, deadline_s=later()))
    await settled()
    await requests.add("b1")
    assert requests.let_in == ["a0", "a1", "b1"]
    await requests.finish("b")
    assert not stepped_back.done()
    await requests.finish("a")
    assert stepped_back.done()
    assert requests.line.inflight == 1


async def test_tenant_at_its_limit_gets_one_turn_for_each_of_its_requests_that_ends_in_its_order() -> None:
    requests = Arrivals(line(places=9))
    await requests.add("a0", "a1")

    async def step_back() -> None:
        await requests.line.step_back("a", limit=1, deadline_s=later())
        requests.let_in.append("a1 again")

    again = asyncio.create_task(step_back())
    await settled()
    await requests.add("a2", "a3")
    assert requests.let_in == ["a0", "a1"]
    await requests.finish("a")
    assert requests.let_in == ["a0", "a1", "a1 again"]
    await requests.finish("a")
    assert requests.let_in == ["a0", "a1", "a1 again", "a2"]
    requests.line.give_turn("a")
    await settled()
    assert requests.let_in[-1] == "a3"
    assert requests.line.waiting == 0
    await again


async def test_tenant_at_its_limit_is_let_try_again_when_its_requests_may_have_ended_elsewhere() -> None:
    queue = line(places=2)
    assert queue.try_enter("a")
    await queue.step_back("a", limit=1, deadline_s=later())  # returns by the recheck
    assert (queue.inflight, queue.waiting) == (1, 0)


async def test_request_is_refused_for_its_tenant_s_limit_when_it_waits_behind_one_that_stepped_back() -> None:
    requests = Arrivals(line(places=9, queued=1))
    await requests.add("a0", "a1")
    stepped_back = asyncio.create_task(requests.line.step_back("a", limit=1, deadline_s=later()))
    await settled()
    refused = await refusal_of(requests.line.enter("a", deadline_s=later()))
    assert refused.reason is Refusal.QUEUE_FULL
    assert refused.at_tenant_limit
    stepped_back.cancel()
    await settled()
    assert (requests.line.inflight, requests.line.waiting) == (1, 0)


async def test_place_is_given_up_when_stepping_back_is_refused() -> None:
    requests = Arrivals(line(places=1, queued=0))
    await requests.add("a0")
    refused = await refusal_of(requests.line.step_back("a", limit=1, deadline_s=later()))
    assert refused.at_tenant_limit
    assert requests.line.inflight == 0
