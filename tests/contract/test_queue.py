"""The queue before the models, through real gateways on real sockets."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import StartGateway, chats
from tests.contract.tenants import (
    AUTH,
    KEYS,
    WaitUntil,
    ask,
    error_of,
    leave_during,
)


def test_requests_beyond_a_tenant_s_concurrency_wait_and_those_of_others_do_not(
    start_gateway: StartGateway, student: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(KEYS, rest=f"{AUTH}[tenants.acme]\nmax_concurrent_requests = 1")
    with ThreadPoolExecutor(3) as pool:
        requests = [pool.submit(ask, gateway, "[[fake-delay-20]]")]
        wait_until(lambda: student.state.in_flight == 1)
        requests += [pool.submit(ask, gateway) for _ in range(2)]
        wait_until(lambda: gateway.metric("router_admission_waiting_requests") == 2)
        assert ask(gateway, key="key-of-beta").status_code == 200
        assert not requests[0].done()
        student.state.hurry()
        assert [request.result().status_code for request in requests] == [200] * 3
    assert gateway.metric("router_admission_wait_seconds_count") == 2
    assert gateway.metric("router_admission_waiting_requests") == 0


def test_request_is_refused_at_once_when_nobody_may_wait(
    start_gateway: StartGateway, student: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(
        KEYS,
        server="max_inflight_requests = 2\nmax_queued_requests = 0",
        rest=f"{AUTH}[tenants.acme]\nmax_concurrent_requests = 1",
    )
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(ask, gateway, "[[fake-delay-20]]")
        wait_until(lambda: gateway.metric("router_inflight_requests") == 1)
        refused = ask(gateway)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
        also_running = pool.submit(ask, gateway, "[[fake-delay-20]]", key="key-of-beta")
        wait_until(lambda: gateway.metric("router_inflight_requests") == 2)
        refused = ask(gateway, key="key-of-beta")
        assert (refused.status_code, error_of(refused)["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        student.state.hurry()
        assert (running.result().status_code, also_running.result().status_code) == (200, 200)


def test_client_that_leaves_the_queue_leaves_no_trace(
    start_gateway: StartGateway, student: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(KEYS, server="max_inflight_requests = 1", rest=AUTH)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, gateway, "[[fake-delay-20]]")
        wait_until(lambda: student.state.in_flight == 1)
        waiting = "router_admission_waiting_requests"
        leave_during(gateway, "hi", after=None, once=lambda: gateway.metric(waiting) == 1)
        wait_until(lambda: gateway.metric(waiting) == 0)
        student.state.hurry()
        assert running.result().status_code == 200
    assert chats(student) == 1
    assert ask(gateway).status_code == 200
    assert [record.outcome for record in gateway.records()] == ["client_disconnected", "ok", "ok"]
