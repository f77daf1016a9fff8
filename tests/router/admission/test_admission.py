"""Admission: limits, budgets and concurrency of tenants, over a store that is there, slow to say yes, or away."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest

from policies.base import RouteDecision
from router.admission import Admission, Permit
from router.config import Config
from router.errors import BudgetSpent, Forbidden, LocumError, Overloaded, RateLimited, StateUnavailable
from router.metrics import Metrics
from router.state import Adjust, Claim, Document, Verdict
from router.state.memory import MemoryStore

BACKENDS = """
[student]
base_url = "http://127.0.0.1:9/v1"
[teacher]
base_url = "http://127.0.0.1:9/v1"
"""
WANTED = RouteDecision(route="teacher", reason="low_confidence", policy="retrieval_confidence")
FORCED = RouteDecision(route="teacher", reason="forced", policy="request")
INCAPABLE = RouteDecision(route="teacher", reason="exceeds_window", policy="long_context", student_capable=False)
NOON_S = datetime(2026, 5, 31, 12, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


class FlakyStore:
    """A store that can be taken away, and that counts how often it is asked."""

    def __init__(self, inner: MemoryStore) -> None:
        self.inner = inner
        self.is_away = False
        self.asked = 0
        self.failure: str | None = None
        self.renewed: list[str] = []
        self._missed: list[tuple[Sequence[Adjust], str]] = []

    async def admit(self, claims: Sequence[Claim], *, holder: str) -> Verdict:
        self.asked += 1
        if self.is_away:
            raise StateUnavailable("away")
        return await self.inner.admit(claims, holder=holder)

    async def settle(self, adjustments: Sequence[Adjust], *, holder: str) -> None:
        self._missed.append((adjustments, holder))
        if not self.is_away:
            await self.come_back()

    async def come_back(self) -> None:
        self.is_away = False
        missed, self._missed = self._missed, []
        for adjustments, holder in missed:
            await self.inner.settle(adjustments, holder=holder)

    async def renew(self, holders: Sequence[str]) -> None:
        self.renewed += holders
        await self.inner.renew(holders)

    async def get(self, key: str) -> bytes | None:
        raise NotImplementedError

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        raise NotImplementedError

    async def read_document(self, name: str) -> Document | None:
        raise NotImplementedError

    async def write_document(self, name: str, content: bytes, *, expected_version: int | None) -> Document:
        raise NotImplementedError

    async def document_history(self, name: str, *, limit: int = 1) -> list[Document]:
        raise NotImplementedError

    def watch(self, name: str) -> AsyncIterator[Document]:
        raise NotImplementedError


class Gateway:
    """What the gateway does with admission, in short."""

    def __init__(self, text: str) -> None:
        self.clock = Clock()
        self.store = FlakyStore(MemoryStore(max_value_bytes=0, clock=self.clock))
        self.metrics = Metrics()
        self.admission = Admission(
            Config.model_validate(tomllib.loads(BACKENDS + text)),
            store=self.store,
            metrics=self.metrics,
            environ={"LOCUM_API_KEYS": "acme=key-of-acme"},
        )
        self._count = 0

    async def admit(
        self, tenant: str = "acme", *, tokens: int = 1, usd: float | None = None, within_s: float = 60.0
    ) -> Permit:
        self._count += 1
        return await self.admission.admit(
            self.admission.tenants.of(tenant),
            holder=f"request-{self._count}",
            estimated_tokens=tokens,
            estimated_cost_usd=usd,
            deadline_s=asyncio.get_running_loop().time() + within_s,
        )

    async def refused(self, tenant: str = "acme", **request: float) -> LocumError:
        with pytest.raises(LocumError) as caught:
            await self.admit(tenant, **request)  # type: ignore[arg-type]
        error = caught.value
        assert error.retry_after_s is not None
        assert error.retry_after_s >= 1
        return error

    def refusals(self, cause: str) -> float:
        return self.metrics.registry.get_sample_value("router_admission_refusals_total", {"cause": cause}) or 0.0


def header(permit: Permit | LocumError, name: str) -> str:
    return dict(permit.headers)[name.encode()].decode()


async def done(permit: Permit, *, tokens: int | None = 0, usd: float | None = 0.0) -> None:
    await permit.settle(tokens=tokens, cost_usd=usd)


# Without limits


async def test_admission_asks_no_store_and_never_waits_when_nothing_is_limited() -> None:
    gateway = Gateway('[limits]\ntags = {team = "x"}')
    admitting = gateway.admit()
    with pytest.raises(StopIteration) as finished:
        admitting.send(None)  # an await that yields would return here
    permit: Permit = finished.value.value
    settling = permit.settle(tokens=5, cost_usd=1.0)
    with pytest.raises(StopIteration):
        settling.send(None)
    assert gateway.store.asked == 0
    assert permit.headers == []
    assert permit.teacher_allowed
    assert gateway.admission.line.inflight == 0


async def test_tenant_s_own_table_wins_over_the_limits_of_all() -> None:
    gateway = Gateway(
        '[limits]\nrequests_per_minute = 1\ncapture = "metadata"\n'
        '[tenants.free]\nrequests_per_minute = "unlimited"\n[tenants.small]\nmax_concurrent_requests = 1'
    )
    assert gateway.admission.tenants.of("free").unlimited
    small = gateway.admission.tenants.of("small")
    assert (small.requests_per_minute, small.max_concurrent_requests, small.capture) == (1, 1, "metadata")


# Rates


async def test_requests_a_minute_are_refused_beyond_the_limit_and_come_back_evenly() -> None:
    gateway = Gateway("[limits]\nrequests_per_minute = 2")
    first, second = await gateway.admit(), await gateway.admit()
    assert [header(permit, "x-ratelimit-remaining-requests") for permit in (first, second)] == ["1", "0"]
    assert header(second, "x-ratelimit-limit-requests") == "2"
    assert header(second, "x-ratelimit-reset-requests") == "1m0s"
    error = await gateway.refused()
    assert isinstance(error, RateLimited)
    assert (error.status, error.code, error.retry_after_s) == (429, "rate_limit_exceeded", 30)
    assert header(error, "x-ratelimit-remaining-requests") == "0"
    assert gateway.refusals("requests_per_minute") == 1
    assert gateway.admission.line.inflight == 2
    await gateway.admit("other")
    gateway.clock.now_s += 30
    await gateway.admit()


async def test_tokens_are_reserved_and_settled_to_what_was_used() -> None:
    gateway = Gateway("[limits]\ntokens_per_minute = 1000")
    permit = await gateway.admit(tokens=900)
    assert header(permit, "x-ratelimit-remaining-tokens") == "100"
    assert (await gateway.refused(tokens=200)).retry_after_s == 6
    assert gateway.refusals("tokens_per_minute") == 1
    await done(permit, tokens=300)
    assert header(await gateway.admit(tokens=0), "x-ratelimit-remaining-tokens") == "700"


async def test_tokens_beyond_the_reservation_are_charged_too() -> None:
    gateway = Gateway("[limits]\ntokens_per_minute = 1000")
    await done(await gateway.admit(tokens=100), tokens=1600)
    gateway.clock.now_s += 30  # the debt of 600 has shrunk to 100
    assert (await gateway.refused(tokens=1)).retry_after_s == 7


async def test_reservation_stands_when_the_usage_is_unknown() -> None:
    gateway = Gateway("[limits]\ntokens_per_minute = 1000\nbudget_usd_per_day = 1")
    await done(await gateway.admit(tokens=400, usd=0.75), tokens=None, usd=None)
    assert header(await gateway.admit(tokens=0), "x-ratelimit-remaining-tokens") == "600"
    assert isinstance(await gateway.refused(usd=0.5), BudgetSpent)


async def test_only_the_first_settlement_counts() -> None:
    gateway = Gateway("[limits]\ntokens_per_minute = 1000")
    permit = await gateway.admit(tokens=500)
    await done(permit, tokens=100)
    await done(permit, tokens=0)
    assert gateway.admission.line.inflight == 0
    assert header(await gateway.admit(tokens=0), "x-ratelimit-remaining-tokens") == "900"


async def test_request_is_told_not_to_come_back_when_it_can_never_fit() -> None:
    gateway = Gateway("[limits]\ntokens_per_minute = 1000")
    error = await gateway.refused(tokens=1001)
    assert "never" in str(error)
    assert header(error, "x-should-retry") == "false"


# Budgets


@pytest.mark.parametrize(("period", "reset_s"), [("day", 12 * 3600), ("month", 12 * 3600)])
async def test_budget_refuses_when_it_is_spent_and_starts_anew(period: str, reset_s: int) -> None:
    gateway = Gateway(f"[limits]\nbudget_usd_per_{period} = 1.0")
    await done(await gateway.admit(usd=0.2), usd=0.9)
    error = await gateway.refused(usd=0.2)
    assert isinstance(error, BudgetSpent)
    assert (error.status, error.code, error.retry_after_s) == (429, "insufficient_quota", reset_s)
    assert header(error, "x-should-retry") == "false"
    assert gateway.refusals(f"budget_{period}") == 1
    await done(await gateway.admit(usd=0.05), usd=0.1)
    assert isinstance(await gateway.refused(usd=None), BudgetSpent)
    gateway.clock.now_s += reset_s
    assert (await gateway.admit(usd=0.2)).teacher_allowed


async def test_teacher_is_not_used_any_more_when_the_budget_is_spent_and_the_student_may_go_on() -> None:
    gateway = Gateway(
        '[limits]\nbudget_usd_per_day = 1.0\nbudget_usd_per_month = 100.0\non_budget_spent = "student_only"'
    )
    await done(await gateway.admit(usd=0.5), usd=0.9)
    permit = await gateway.admit(usd=0.5)
    assert not permit.teacher_allowed
    assert permit.degraded == "budget_spent"
    assert permit.restricted(WANTED) is WANTED
    for decision in (FORCED, INCAPABLE):
        with pytest.raises(BudgetSpent) as caught:
            permit.restricted(decision)
        assert caught.value.retry_after_s == 12 * 3600
    await done(permit, usd=0.25)  # what the student costs is charged all the same
    assert not (await gateway.admit(usd=0.0)).teacher_allowed
    gateway.clock.now_s += 24 * 3600
    assert (await gateway.admit(usd=0.5)).teacher_allowed


async def test_budget_spent_is_an_error_when_the_tenant_may_not_have_the_student_either() -> None:
    gateway = Gateway(
        '[limits]\nbudget_usd_per_day = 1.0\non_budget_spent = "student_only"\nallowed_routes = ["teacher"]'
    )
    assert isinstance(await gateway.refused(usd=1.5), BudgetSpent)


async def test_tenant_without_the_teacher_gets_the_student_or_an_error() -> None:
    gateway = Gateway('[limits]\nallowed_routes = ["student"]')
    permit = await gateway.admit()
    assert not permit.teacher_allowed
    assert permit.degraded == "teacher_not_allowed"
    assert permit.restricted(WANTED) is WANTED
    for decision in (FORCED, INCAPABLE):
        with pytest.raises(Forbidden) as caught:
            permit.restricted(decision)
        assert caught.value.code == "route_not_allowed"


async def test_tenant_without_the_student_gets_the_teacher_and_nobody_stands_in() -> None:
    gateway = Gateway('[limits]\nallowed_routes = ["teacher"]')
    permit = await gateway.admit()
    assert permit.teacher_allowed
    for route in ("student", "teacher"):
        decision = permit.restricted(RouteDecision(route=route, reason="fits", policy="long_context"))
        assert (decision.route, decision.policy, decision.reason) == ("teacher", "request", "fits")
    with pytest.raises(Forbidden):
        permit.restricted(RouteDecision(route="student", reason="forced", policy="request"))


async def test_tenant_may_ask_for_no_model_but_its_own() -> None:
    gateway = Gateway('[aliases]\nfast = "student"\n[limits]\nallowed_models = ["fast"]')
    tenant = gateway.admission.tenants.of("acme")
    tenant.check_model("fast")
    with pytest.raises(Forbidden) as caught:
        tenant.check_model("teacher")
    assert caught.value.code == "model_not_allowed"


# Concurrency


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


# The store away


@pytest.mark.parametrize("limit", ["requests_per_minute", "budget_usd_per_day", "max_concurrent_requests"])
async def test_request_is_refused_when_the_store_is_away_and_nothing_may_be_decided_without_it(limit: str) -> None:
    gateway = Gateway(f"[limits]\n{limit} = 5")
    gateway.store.is_away = True
    error = await gateway.refused(usd=0.1)
    assert (error.status, error.code) == (503, "state_unavailable")
    assert gateway.refusals("state_unavailable") == 1
    assert gateway.admission.line.inflight == 0
    await gateway.store.come_back()
    await gateway.admit(usd=0.1)
