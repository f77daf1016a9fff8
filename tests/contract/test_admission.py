"""Keys, limits, budgets and the queue, through real gateways on real sockets."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import anthropic
import httpx
import msgspec
import openai
import pytest

from loadtests.fake_backend import BackendThread
from router.admission.commands import now
from router.admission.key_file import KeyFile
from router.admission.keys import SCOPES, Scope, new_key
from tests.contract.conftest import RunningGateway, StartGateway, chats
from tests.contract.test_cascade import DOUBTER
from tests.router.state.conftest import RedisServer, start_redis

WaitUntil = Callable[[Callable[[], bool]], None]
AUTH = '[auth]\nkeys_env = "KEYS"\n'
KEYS = {"KEYS": "acme=key-of-acme,beta=key-of-beta"}
TO_TEACHER = {"retrieval_confidence": 0.1}
"""What the policy `retrieval_confidence` wants the teacher for."""
RETRIEVAL = '[[routing.policies]]\ntype = "long_context"\n[[routing.policies]]\ntype = "retrieval_confidence"\n'


def ask(gateway: RunningGateway, text: str = "hi", *, key: str = "key-of-acme", **fields: Any) -> httpx.Response:
    body = {"model": "auto", "max_tokens": 10, "messages": [{"role": "user", "content": text}], **fields}
    return gateway.post(body, headers={"authorization": f"Bearer {key}"})


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


def remaining_tokens(gateway: RunningGateway) -> int:
    """Of acme, before the request that asks; the limit must be so low that nothing comes back in the meantime."""
    asking = ask(gateway, "[[fake-prompt-tokens-0-tokens-0]]", max_tokens=1)
    assert asking.status_code == 200
    return int(asking.headers["x-ratelimit-remaining-tokens"])


def leave_during(gateway: RunningGateway, text: str, *, after: bytes | None, once: Callable[[], bool]) -> None:
    """A streamed request of acme whose client reads up to `after`, waits for `once` and goes."""
    body = json.dumps(
        {"model": "auto", "stream": True, "max_tokens": 500, "messages": [{"role": "user", "content": text}]}
    ).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: key-of-acme\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(gateway.origin.rpartition(":")[2])), timeout=10) as client:
        client.sendall(head % len(body) + body)
        received = b""
        while after is not None and after not in received:
            received += client.recv(65536)
        while not once():
            pass


# Keys


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def add_key(file: KeyFile, tenant: str, scopes: tuple[Scope, ...] = SCOPES) -> str:
    with file.editing() as entries:
        key, text = new_key(name=tenant, tenant=tenant, scopes=scopes, created=now(), expires=None)
        entries.append(key)
    return text


def test_key_of_the_file_is_served_and_every_official_client_sends_it_in_its_way(
    start_gateway: StartGateway, key_file: KeyFile
) -> None:
    key = add_key(key_file, "gamma")
    gateway = start_gateway(KEYS, rest=f'{AUTH}keys_file = "{key_file.path}"')
    gateway.client(key).chat.completions.create(model="auto", messages=[{"role": "user", "content": "hi"}])
    assert gateway.records()[-1].tenant == "gamma"
    with anthropic.Anthropic(base_url=gateway.origin, api_key=key, max_retries=0) as client:
        client.messages.create(model="auto", max_tokens=10, messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(anthropic.AuthenticationError):
            client.with_options(api_key="locum_wrong").messages.create(
                model="auto", max_tokens=10, messages=[{"role": "user", "content": "hi"}]
            )
    assert ask(gateway).status_code == 200
    assert [record.tenant for record in gateway.records()] == ["gamma", "gamma", "default", "acme"]


def test_keys_are_added_expired_and_revoked_without_a_restart(
    start_gateway: StartGateway, key_file: KeyFile, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(rest=f'[auth]\nkeys_file = "{key_file.path}"')
    first, second = add_key(key_file, "one"), add_key(key_file, "two")
    wait_until(lambda: ask(gateway, key=second).status_code == 200)
    assert ask(gateway, key=first).status_code == 200
    with key_file.editing() as entries:
        entries[0] = msgspec.structs.replace(entries[0], revoked=now())
        entries[1] = msgspec.structs.replace(entries[1], expires=now() - timedelta(seconds=1))
    wait_until(lambda: ask(gateway, key=first).status_code == 403)
    refused = [ask(gateway, key=key) for key in (first, second)]
    assert [error_of(response)["code"] for response in refused] == ["key_revoked", "key_expired"]
    assert gateway.records()[-1].outcome == "rejected"
    key_file.path.write_text("damaged")
    assert error_of(ask(gateway, key=first))["code"] == "key_revoked"


def test_key_may_do_only_what_its_scopes_say(start_gateway: StartGateway, key_file: KeyFile) -> None:
    inference = add_key(key_file, "acme", ("inference",))
    feedback = add_key(key_file, "acme", ("feedback",))
    admin = add_key(key_file, "ops", ("admin",))
    gateway = start_gateway(rest=f'[auth]\nkeys_file = "{key_file.path}"')
    answered = ask(gateway, key=inference)
    judgement = {"decision_id": answered.headers["x-router-decision-id"], "score": 1.0}

    def status(path: str, key: str, body: dict[str, Any] | None = None) -> int:
        method = "GET" if body is None else "POST"
        headers = {"authorization": f"Bearer {key}"}
        return httpx.request(method, gateway.origin + path, json=body, headers=headers).status_code

    assert [status("/v1/feedback", key, judgement) for key in (inference, feedback, admin)] == [403, 200, 403]
    assert [status("/v1/models", key) for key in (inference, feedback, admin)] == [200, 403, 403]
    assert [status("/admin/policy", key) for key in (inference, feedback, admin)] == [403, 403, 200]
    assert [ask(gateway, key=key).status_code for key in (feedback, admin)] == [403, 403]


def test_tenant_has_its_models_tags_and_bound_on_the_log(start_gateway: StartGateway) -> None:
    gateway = start_gateway(
        KEYS,
        rest=f'{AUTH}[aliases]\nfast = "student"\n[tenants.acme]\nallowed_models = ["fast", "auto"]\n'
        'capture = "metadata"\ntags = {team = "search", tier = "gold"}',
    )
    assert {model.id for model in gateway.client("key-of-acme").models.list()} == {"fast", "auto"}
    assert len(list(gateway.client("key-of-beta").models.list())) == 4
    refused = ask(gateway, model="teacher")
    assert (refused.status_code, error_of(refused)["code"]) == (403, "model_not_allowed")
    ask(gateway, "a secret", router={"tags": {"tier": "silver"}})
    record = gateway.records()[-1]
    assert record.tags == {"team": "search", "tier": "silver"}
    assert (record.capture, record.request) == ("metadata", None)
    ask(gateway, key="key-of-beta")
    assert gateway.records()[-1].capture == "full"


# Limits


def test_requests_beyond_the_limit_are_429_in_the_form_of_the_api(start_gateway: StartGateway) -> None:
    gateway = start_gateway(KEYS, rest=f"{AUTH}[limits]\nrequests_per_minute = 2")
    answered = ask(gateway)
    assert answered.headers["x-ratelimit-limit-requests"] == "2"
    assert answered.headers["x-ratelimit-remaining-requests"] == "1"
    assert answered.headers["x-ratelimit-reset-requests"].endswith("s")
    ask(gateway)
    with pytest.raises(openai.RateLimitError) as caught:
        gateway.client("key-of-acme").chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "hi"}], stream=True
        )
    response = caught.value.response
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(response.headers["retry-after"]) <= 30
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    with anthropic.Anthropic(base_url=gateway.origin, api_key="key-of-acme", max_retries=0) as client:
        with pytest.raises(anthropic.RateLimitError) as also_caught:
            client.messages.create(model="auto", max_tokens=10, messages=[{"role": "user", "content": "hi"}])
        assert also_caught.value.response.json()["error"]["type"] == "rate_limit_error"
    assert gateway.metric('router_admission_refusals_total{cause="requests_per_minute"}') == 2
    assert gateway.records()[-1].outcome == "rejected"
    assert ask(gateway, key="key-of-beta").status_code == 200


LOW = f"{AUTH}[limits]\ntokens_per_minute = 1000"
CAME_BACK_TOKENS = 300
"""In 18 s: how long a busy machine may take between two requests."""


def charged(gateway: RunningGateway, tokens: int) -> bool:
    """Whether so much of the limit is gone; asking takes a few tokens itself."""
    left = remaining_tokens(gateway)
    return 1000 - tokens - 30 <= left <= 1000 - tokens + CAME_BACK_TOKENS


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_settled_to_the_usage_that_the_backend_tells(start_gateway: StartGateway, stream: bool) -> None:
    gateway = start_gateway(KEYS, rest=LOW)
    ask(gateway, "[[fake-prompt-tokens-500-tokens-8]]", max_tokens=900, stream=stream)
    assert charged(gateway, 508)
    assert ask(gateway, max_tokens=990).status_code == 429
    assert gateway.metric('router_admission_refusals_total{cause="tokens_per_minute"}') == 1


@pytest.mark.parametrize("text", ["[[fault-truncate-4]]", "[[fault-error-frame-mid-4]]", "[[fault-reset-mid-4]]"])
def test_stream_that_breaks_off_is_charged_as_far_as_it_came(start_gateway: StartGateway, text: str) -> None:
    gateway = start_gateway(KEYS, rest=LOW)
    ask(gateway, text + 1600 * "a", max_tokens=500, stream=True)  # 400 tokens of prompt, 900 with what it may answer
    assert gateway.records()[0].usage is None
    assert charged(gateway, 400)


def test_request_that_no_backend_answered_is_charged_nothing(start_gateway: StartGateway) -> None:
    gateway = start_gateway(KEYS, rest=LOW, student_url="http://127.0.0.1:9/v1", teacher_url="http://127.0.0.1:9/v1")
    assert [ask(gateway, max_tokens=900).status_code for _ in range(3)] == [503] * 3


def test_stream_that_its_client_left_is_charged_as_far_as_it_came_and_gives_its_place_back(
    start_gateway: StartGateway, student: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(KEYS, rest=f"{LOW}\nmax_concurrent_requests = 1")
    leave_during(
        gateway,
        "[[fake-tokens-4000-gap-0.05]]" + 1600 * "a",
        after=b'"content":"',
        once=lambda: student.state.in_flight == 1,
    )
    wait_until(lambda: [record.outcome for record in gateway.records()] == ["client_disconnected"])
    assert charged(gateway, 410)


# Budgets


DEAR = "[[fake-prompt-tokens-100000-tokens-0]]"
"""0.25 USD at the teacher, 0.002 USD at the student."""


def test_budget_is_overdrawn_by_what_runs_and_then_refuses(start_gateway: StartGateway) -> None:
    gateway = start_gateway(KEYS, rest=f"{AUTH}[tenants.acme]\nbudget_usd_per_day = 0.3\nbudget_usd_per_month = 9")
    assert ask(gateway, DEAR, model="teacher").status_code == 200
    assert ask(gateway, DEAR, model="teacher").status_code == 200
    refused = ask(gateway)
    assert refused.status_code == 429
    assert (error_of(refused)["code"], error_of(refused)["type"]) == ("insufficient_quota", "insufficient_quota")
    assert 1 <= int(refused.headers["retry-after"]) <= 24 * 3600
    assert refused.headers["x-should-retry"] == "false"
    assert gateway.metric('router_admission_refusals_total{cause="budget_day"}') == 1
    assert ask(gateway, key="key-of-beta").status_code == 200


def test_student_goes_on_alone_when_the_budget_is_spent(
    start_gateway: StartGateway, student: BackendThread, teacher: BackendThread
) -> None:
    limits = f'{AUTH}[limits]\nbudget_usd_per_day = 0.2\non_budget_spent = "student_only"\n'
    gateway = start_gateway(KEYS, rest=limits + RETRIEVAL)
    before = ask(gateway, DEAR, router=TO_TEACHER)
    assert before.headers["x-router-route"] == "teacher"
    teacher.state.reset()
    degraded = ask(gateway, router=TO_TEACHER)
    assert (degraded.headers["x-router-route"], degraded.headers["x-router-degraded"]) == ("student", "budget_spent")
    assert gateway.records()[-1].outcome == "degraded"
    ordinary = ask(gateway, router={"retrieval_confidence": 0.9})
    assert ordinary.headers["x-router-route"] == "student"
    assert "x-router-degraded" not in ordinary.headers
    for fields in ({"model": "teacher"}, {"max_tokens": 100_000}):  # the client insists; the student cannot
        refused = ask(gateway, **fields)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "insufficient_quota")
    failed = ask(gateway, "[[fault-500]]")
    assert failed.status_code == 503
    assert chats(teacher) == 0


def test_draft_that_was_thrown_away_is_paid_for_too(start_gateway: StartGateway) -> None:
    limits = '[limits]\nbudget_usd_per_day = 0.2\non_budget_spent = "student_only"\n'
    gateway = start_gateway(KEYS, rest=f"{AUTH}{limits}{DOUBTER}")
    weak = "[[fake-prompt-tokens-100000-tokens-5-logprob-2.5]]"
    first = ask(gateway, weak)
    assert first.headers["x-router-route"] == "teacher"
    cost_usd = gateway.records()[-1].cost_usd
    assert cost_usd == pytest.approx(0.25 + 0.002, rel=1e-3)
    second = ask(gateway, weak)  # the teacher is not asked about drafts any more
    assert second.headers["x-router-route"] == "student"


# The queue


def test_requests_beyond_a_tenant_s_concurrency_wait_and_those_of_others_do_not(
    start_gateway: StartGateway, student: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(KEYS, rest=f"{AUTH}[tenants.acme]\nmax_concurrent_requests = 1")
    with ThreadPoolExecutor(3) as pool:
        requests = [pool.submit(ask, gateway, "[[fake-delay-4]]")]
        wait_until(lambda: student.state.in_flight == 1)
        requests += [pool.submit(ask, gateway) for _ in range(2)]
        wait_until(lambda: gateway.metric("router_admission_waiting_requests") == 2)
        assert ask(gateway, key="key-of-beta").status_code == 200
        assert not requests[0].done()
        assert [request.result().status_code for request in requests] == [200] * 3
    assert gateway.metric("router_admission_wait_seconds_count") == 2
    assert gateway.metric("router_admission_waiting_requests") == 0


def test_request_is_refused_at_once_when_nobody_may_wait(start_gateway: StartGateway, wait_until: WaitUntil) -> None:
    gateway = start_gateway(
        KEYS,
        server="max_inflight_requests = 2\nmax_queued_requests = 0",
        rest=f"{AUTH}[tenants.acme]\nmax_concurrent_requests = 1",
    )
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(ask, gateway, "[[fake-delay-2]]")
        wait_until(lambda: gateway.metric("router_inflight_requests") == 1)
        refused = ask(gateway)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
        also_running = pool.submit(ask, gateway, "[[fake-delay-2]]", key="key-of-beta")
        wait_until(lambda: gateway.metric("router_inflight_requests") == 2)
        refused = ask(gateway, key="key-of-beta")
        assert (refused.status_code, error_of(refused)["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert (running.result().status_code, also_running.result().status_code) == (200, 200)


def test_client_that_leaves_the_queue_leaves_no_trace(
    start_gateway: StartGateway, student: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(KEYS, server="max_inflight_requests = 1", rest=AUTH)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, gateway, "[[fake-delay-3]]")
        wait_until(lambda: student.state.in_flight == 1)
        waiting = "router_admission_waiting_requests"
        leave_during(gateway, "hi", after=None, once=lambda: gateway.metric(waiting) == 1)
        wait_until(lambda: gateway.metric(waiting) == 0)
        assert running.result().status_code == 200
    assert chats(student) == 1
    assert ask(gateway).status_code == 200
    assert [record.outcome for record in gateway.records()] == ["client_disconnected", "ok", "ok"]


# Several gateways


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = start_redis()
    yield server
    server.stop()
    shutil.rmtree(server.folder)


def raw_status(gateway: RunningGateway, text: str) -> int:
    """Of a request of acme, without what a real client costs: many of them share a busy machine."""
    body = {"model": "student", "max_tokens": 8, "messages": [{"role": "user", "content": text}]}
    connection = http.client.HTTPConnection(gateway.origin.removeprefix("http://"), timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"x-api-key": "key-of-acme"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_budget_is_exact_over_four_gateways_with_one_redis(start_gateway: StartGateway, redis: RedisServer) -> None:
    text = "[[fake-prompt-tokens-9-tokens-8]]"  # 9 tokens by estimate as well: reserved is what is used
    rest = f'{AUTH}[state]\nurl = "{redis.url}"\ntimeout_s = 20\n[limits]\nbudget_usd_per_day = {10.5 * (9 * 0.02 + 8 * 0.04) * 1e-6}\n'
    rest += "[routing]\nfall_back_when_student_forced = false\n"  # a busy machine must not make one dearer
    gateways = [start_gateway(KEYS, student="connect_timeout_s = 60.0", rest=rest) for _ in range(4)]
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(raw_status, gateways * 8, [text] * 32))
    assert (statuses.count(200), statuses.count(429)) == (10, 22)


def test_place_that_came_free_on_another_gateway_is_found(start_gateway: StartGateway, redis: RedisServer) -> None:
    rest = f'{AUTH}[state]\nurl = "{redis.url}"\ntimeout_s = 20\n[limits]\nmax_concurrent_requests = 1\n'
    gateways = [start_gateway(KEYS, server="max_queue_wait_s = 60.0", rest=rest) for _ in range(2)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(raw_status, gateways * 3, ["[[fake-delay-0.2]]"] * 6)) == [200] * 6
