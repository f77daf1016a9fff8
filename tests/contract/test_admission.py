"""Limits, of one gateway and of several, through real gateways on real sockets."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anthropic
import openai
import pytest

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.tenants import (
    AUTH,
    KEYS,
    WaitUntil,
    ask,
    leave_during,
    remaining_tokens,
)
from tests.router.state.conftest import RedisServer, start_redis


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
