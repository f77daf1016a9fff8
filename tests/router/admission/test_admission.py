"""Admission: the rates of tenants, and a store that is away."""

from __future__ import annotations

import pytest

from router.admission import Permit
from router.errors import BudgetSpent, RateLimited
from tests.router.admission.gateway import Gateway, done, header


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
