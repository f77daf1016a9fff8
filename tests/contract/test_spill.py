"""A student that is too busy hands requests to the teacher, and takes them back when it has room."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import RunningGateway, chats
from tests.contract.test_disconnect import WaitUntil
from tests.contract.test_resilience import HI, PLAIN, Site, saying

LIMITS = """
[resilience.spill]
metrics_interval_s = 0.05
{limit}
"""


@pytest.fixture
def site(teacher: BackendThread, tmp_path: Path) -> Iterator[Site]:
    teacher.state.reset()
    made = Site(teacher, tmp_path)
    yield made
    made.close()


def where(gateway: RunningGateway, body: object = PLAIN) -> tuple[str, str]:
    response = gateway.post(body)
    assert response.status_code == 200
    return response.headers["x-router-route"], response.headers["x-router-reason"]


def engine(gateway: RunningGateway, number: int = 0) -> dict[str, float]:
    """What the gateway has read of a replica's engine."""
    replica = httpx.get(f"{gateway.origin}/readyz").json()["student"]["replicas"][number]
    return replica["engine"] or {}


@pytest.mark.parametrize(
    ("limit", "field", "full", "reason"),
    [
        ("max_waiting_requests = 4", "waiting", 5, "overflow_queue"),
        ("max_kv_usage = 0.9", "kv_usage", 0.95, "overflow_kv"),
    ],
)
def test_full_student_spills_to_the_teacher_and_takes_requests_back(
    site: Site, wait_until: WaitUntil, limit: str, field: str, full: float, reason: str
) -> None:
    student = site.replica("ALPHA")
    gateway = site.gateway(student.base_url, rest=LIMITS.format(limit=limit))
    assert where(gateway) == ("student", "default")
    setattr(student.state, field, full)
    wait_until(lambda: engine(gateway).get(field) == full)
    assert where(gateway) == ("teacher", reason)
    assert where(gateway, {"model": "student", "messages": HI})[0] == "student"  # the client insists
    assert gateway.metric(f'router_spills_total{{reason="{reason}"}}') == 1
    assert gateway.total("router_fallbacks_total") == 0
    record = gateway.records()[1]
    assert (record.route, record.reason, record.decision.route, record.degraded) == ("teacher", reason, "student", None)
    setattr(student.state, field, 0)
    wait_until(lambda: engine(gateway).get(field) == 0)
    assert where(gateway) == ("student", "default")


def test_replica_with_room_answers_while_another_is_full(site: Site, wait_until: WaitUntil) -> None:
    busy, free = site.replica("ALPHA"), site.replica("BETA")
    gateway = site.gateway(busy.base_url, free.base_url, rest=LIMITS.format(limit="max_waiting_requests = 4"))
    busy.state.waiting = 9
    wait_until(lambda: engine(gateway).get("waiting") == 9 and bool(engine(gateway, 1)))
    assert {where(gateway)[0] for _ in range(8)} == {"student"}
    assert (chats(busy), chats(free)) == (0, 8)


def test_student_without_metrics_spills_by_the_requests_it_has(site: Site, wait_until: WaitUntil) -> None:
    student = site.replica("ALPHA")
    gateway = site.gateway(student.base_url, rest=LIMITS.format(limit="max_inflight_requests = 2"))
    slow = [threading.Thread(target=gateway.post, args=(saying("fake-delay-20"),)) for _ in range(2)]
    for client in slow:
        client.start()
    wait_until(lambda: student.state.in_flight == 2)
    assert where(gateway) == ("teacher", "overflow_queue")
    student.state.hurry()
    for client in slow:
        client.join()
    assert where(gateway) == ("student", "default")


def test_slow_first_tokens_spill_and_are_tried_again(site: Site, wait_until: WaitUntil) -> None:
    student = site.replica("ALPHA")
    limit = "max_ttft_s = 1.0\nttft_half_life_s = 0.5"
    gateway = site.gateway(student.base_url, rest=LIMITS.format(limit=limit))
    slow = threading.Thread(target=gateway.post, args=(saying("fake-delay-20", stream=True),))
    slow.start()
    wait_until(lambda: where(gateway) == ("teacher", "overflow_ttft"))  # it still waits for its first token
    student.state.hurry()
    slow.join()
    wait_until(lambda: where(gateway) == ("student", "default"))
    assert gateway.metric('router_spills_total{reason="overflow_ttft"}') >= 1


def test_full_student_answers_when_the_teacher_is_down(site: Site, wait_until: WaitUntil) -> None:
    student = site.replica("ALPHA")
    rest = LIMITS.format(limit="max_waiting_requests = 4") + "[resilience.breaker]\nconsecutive_failures = 1\n"
    gateway = site.gateway(student.base_url, rest=rest, teacher_model="fault-503")
    student.state.waiting = 9
    wait_until(lambda: engine(gateway).get("waiting") == 9)
    assert where(gateway) == ("student", "fallback_server_error")
    assert where(gateway) == ("student", "default")  # the teacher is ejected: nobody waits for it
    degraded = gateway.post({**PLAIN, "router": {"retrieval_confidence": 0.1}})
    assert (degraded.status_code, degraded.headers["x-router-degraded"]) == (200, "teacher_unavailable")


def test_numbers_of_an_engine_that_fell_silent_are_not_used(site: Site, wait_until: WaitUntil) -> None:
    limit = "max_waiting_requests = 4\nmetrics_max_age_s = 0.5"
    with BackendThread(models=("student",)) as first:
        port = int(first.origin.rpartition(":")[2])
        gateway = site.gateway(first.base_url, rest=LIMITS.format(limit=limit))
        first.state.waiting = 9
        wait_until(lambda: engine(gateway).get("waiting") == 9)
        assert where(gateway) == ("teacher", "overflow_queue")
    wait_until(lambda: engine(gateway) == {})
    with BackendThread(models=("student",), port=port):
        wait_until(lambda: where(gateway) == ("student", "default"))


def test_full_student_answers_a_tenant_whose_budget_has_no_room_for_the_teacher(
    site: Site, wait_until: WaitUntil
) -> None:
    """At 1000 tokens the student costs 0.00004 USD and the teacher 0.01."""
    student = site.replica("ALPHA")
    budgets = '[auth]\nkeys_env = "KEYS"\n[tenants.poor]\nbudget_usd_per_day = 0.001\n[tenants.rich]\nbudget_usd_per_day = 1.0\n'
    gateway = site.gateway(
        student.base_url,
        rest=LIMITS.format(limit="max_waiting_requests = 4") + budgets,
        environ={"KEYS": "poor=key-of-poor,rich=key-of-rich"},
    )
    student.state.waiting = 9
    wait_until(lambda: engine(gateway).get("waiting") == 9)

    def asked(key: str, model: str = "auto") -> httpx.Response:
        body = {"model": model, "max_tokens": 1000, "messages": HI}
        return gateway.post(body, headers={"authorization": f"Bearer {key}"})

    poor, rich = asked("key-of-poor"), asked("key-of-rich")
    assert (rich.headers["x-router-route"], rich.headers["x-router-reason"]) == ("teacher", "overflow_queue")
    assert (poor.headers["x-router-route"], poor.headers["x-router-reason"]) == ("student", "default")
    assert "x-router-degraded" not in poor.headers  # it was the student's request
    assert asked("key-of-poor", "teacher").status_code == 429
