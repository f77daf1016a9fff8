"""Admission: what a tenant may spend, and on which models."""

from __future__ import annotations

import pytest

from policies.base import RouteDecision
from router.errors import BudgetSpent, Forbidden
from tests.router.admission.gateway import FORCED, INCAPABLE, WANTED, Gateway, done, header


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
