"""Admission: how many requests of a tenant run at once, and what becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from router.errors import Overloaded, RateLimited
from router.state import Claim, Verdict
from tests.router.admission.gateway import Gateway, done, header


async def test_request_waits_for_its_tenant_s_place_and_no_other_tenant_waits() -> None:
    gateway = Gateway("[limits]\nmax_concurrent_requests = 1")
    permit = await gateway.admit()
    waiting = asyncio.create_task(gateway.admit())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await gateway.admit("other")
    await done(permit)
    await waiting


async def test_waiting_requests_of_a_tenant_are_let_in_one_after_the_other() -> None:
    gateway = Gateway("[limits]\nmax_concurrent_requests = 2")
    running = [await gateway.admit(), await gateway.admit()]
    most = 0

    async def use() -> None:
        nonlocal most
        permit = await gateway.admit()
        running.append(permit)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.remove(permit)
        await done(permit)

    others = [asyncio.create_task(use()) for _ in range(20)]
    await asyncio.sleep(0.01)
    for permit in [running.pop(), running.pop()]:
        await done(permit)
    await asyncio.gather(*others)
    assert most == 2
    assert (gateway.admission.line.inflight, gateway.admission.line.waiting) == (0, 0)


async def test_request_is_refused_when_its_tenant_s_place_does_not_come_free_in_time() -> None:
    gateway = Gateway("[server]\nmax_queue_wait_s = 0.01\n[limits]\nmax_concurrent_requests = 1")
    await gateway.admit()
    error = await gateway.refused()
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert gateway.refusals("too_late") == 1
    assert (gateway.admission.line.inflight, gateway.admission.line.waiting) == (1, 0)


async def test_request_is_refused_at_once_when_nobody_may_wait() -> None:
    gateway = Gateway("[server]\nmax_queued_requests = 0\nmax_inflight_requests = 1")
    await gateway.admit()
    error = await gateway.refused()
    assert isinstance(error, Overloaded)
    assert error.status == 503
    assert gateway.refusals("queue_full") == 1


async def test_cancelled_request_leaves_nothing_behind_wherever_it_is() -> None:
    gateway = Gateway(
        "[server]\nmax_inflight_requests = 2\n[limits]\nmax_concurrent_requests = 1\nrequests_per_minute = 3"
    )
    permits = [await gateway.admit("a"), await gateway.admit("b")]
    waiting = [asyncio.create_task(gateway.admit(tenant)) for tenant in ("a", "c")]
    await asyncio.sleep(0.01)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for permit in permits:
        await done(permit)
    line = gateway.admission.line
    assert (line.inflight, line.waiting) == (0, 0)
    assert header(await gateway.admit("c"), "x-ratelimit-remaining-requests") == "2"


async def test_claims_are_given_back_when_a_request_is_cancelled_while_the_store_answers() -> None:
    gateway = Gateway("[limits]\nmax_concurrent_requests = 1\ntokens_per_minute = 10")
    answered = asyncio.Event()
    admit = gateway.store.inner.admit

    async def slow(claims: Sequence[Claim], *, holder: str) -> Verdict:
        verdict = await admit(claims, holder=holder)
        await answered.wait()
        return verdict

    gateway.store.inner.admit = slow  # type: ignore[method-assign]
    asking = asyncio.create_task(gateway.admit(tokens=10))
    await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    answered.set()
    permit = await gateway.admit(tokens=10)
    assert header(permit, "x-ratelimit-remaining-tokens") == "0"
    assert gateway.admission.line.inflight == 1


async def test_slots_of_running_requests_are_kept_and_those_of_a_dead_gateway_come_free() -> None:
    gateway = Gateway("[server]\nmax_queued_requests = 0\n[limits]\nmax_concurrent_requests = 1")
    permit = await gateway.admit()
    gateway.clock.now_s += 25
    await gateway.admission.renew()
    gateway.clock.now_s += 25
    assert isinstance(await gateway.refused(), RateLimited)
    gateway.clock.now_s += 10  # nobody has renewed it for longer than it lives
    await gateway.admit()
    await done(permit)
    await gateway.admission.renew()
    assert gateway.store.renewed == ["request-1", "request-3"]
