"""The exact-match response cache on a real gateway: what is answered from it, what never is, and how it is reckoned."""

from __future__ import annotations

import shutil
from typing import Any

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import RunningGateway, StartGateway, chats
from tests.contract.test_disconnect import WaitUntil
from tests.router.state.conftest import start_redis

ON = "[cache]\nenabled = true\n"
BODY: dict[str, Any] = {"model": "auto", "temperature": 0, "messages": [{"role": "user", "content": "What is 2 + 2?"}]}


@pytest.fixture
def cached(start_gateway: StartGateway) -> RunningGateway:
    return start_gateway(rest=ON)


def test_answer_comes_from_the_cache_when_the_same_request_is_sent_again(
    cached: RunningGateway, student: BackendThread
) -> None:
    first, second = cached.post(BODY), cached.post(BODY)
    assert [answer.headers["x-router-cache"] for answer in (first, second)] == ["miss", "hit"]
    assert first.content == second.content
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.headers["x-router-route"] == "student"
    assert second.headers["x-router-reason"] == "cache_hit"
    assert second.headers["x-router-decision-id"] != first.headers["x-router-decision-id"]
    assert chats(student) == 1


def test_hit_has_a_record_of_its_own_that_costs_nothing(cached: RunningGateway) -> None:
    for _ in range(2):
        cached.post(BODY)
    first, hit = cached.records()
    assert (hit.route, hit.reason, hit.outcome, hit.status) == ("student", "cache_hit", "ok", 200)
    assert (hit.cost_usd, hit.usage, hit.completion) == (0.0, None, None)
    assert hit.decision == first.decision
    assert hit.counterfactual_cost_usd == first.counterfactual_cost_usd
    assert first.cost_usd


def test_hits_and_misses_are_counted(cached: RunningGateway) -> None:
    for _ in range(3):
        cached.post(BODY)
    assert cached.metric('router_cache_lookups_total{result="miss"}') == 1
    assert cached.metric('router_cache_lookups_total{result="hit"}') == 2
    assert cached.metric('router_requests_total{outcome="ok",reason="cache_hit",route="student"}') == 2
    tokens = cached.metric('router_tokens_total{direction="output",route="student"}')
    assert tokens == cached.records()[0].usage.completion_tokens  # type: ignore[union-attr]


def test_request_is_the_same_when_only_spelling_and_router_input_differ(
    cached: RunningGateway, student: BackendThread
) -> None:
    cached.post(BODY)
    spelled = (
        b'{"router": {"session": "s", "explain": true}, "messages": [{"content": "What is 2 + 2\\u003f", "role":"user"}],'
        b' "temperature": 0, "model": "auto"}'
    )
    assert cached.post(spelled).headers["x-router-cache"] == "hit"
    assert chats(student) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": None},
        {"temperature": 0.7},
        {"stream": True},
        {"n": 2},
        {"store": False},
        {"router": {"train": "none"}},
        {"router": {"train": "metadata"}},
        {"router": {"purpose": "eval"}},
    ],
    ids=str,
)
def test_answer_is_never_kept_or_given_when_the_request_rules_it_out(
    cached: RunningGateway, student: BackendThread, change: dict[str, Any]
) -> None:
    cached.post(BODY)  # one that could be mistaken for it
    before = chats(student)
    answers = [cached.post(BODY | change) for _ in range(2)]
    assert all("x-router-cache" not in answer.headers for answer in answers)
    assert chats(student) == before + 2


def test_answer_is_kept_when_the_request_has_a_seed(cached: RunningGateway) -> None:
    body = {key: value for key, value in BODY.items() if key != "temperature"} | {"seed": 7}
    assert [cached.post(body).headers["x-router-cache"] for _ in range(2)] == ["miss", "hit"]


def test_client_decides_by_cache_control(cached: RunningGateway, student: BackendThread) -> None:
    def ask(control: str | None) -> str | None:
        headers = {"cache-control": control} if control else {}
        return cached.post(BODY, headers=headers).headers.get("x-router-cache")

    assert [ask("no-store"), ask(None), ask("no-store"), ask("no-cache"), ask(None)] == [
        None, "miss", None, "miss", "hit",
    ]  # fmt: skip
    assert chats(student) == 4


def test_tenants_do_not_share_answers(start_gateway: StartGateway, student: BackendThread) -> None:
    keys = "acme=sk-acme-0123456789abcdef,other=sk-other-0123456789abcdef"
    gateway = start_gateway(environ={"LOCUM_API_KEYS": keys}, rest=ON + "[auth]\n")
    acme, other = ({"authorization": f"Bearer {pair.split('=')[1]}"} for pair in keys.split(","))
    found = [gateway.post(BODY, headers=headers).headers["x-router-cache"] for headers in (acme, other, acme)]
    assert found == ["miss", "miss", "hit"]
    assert chats(student) == 2


def test_answer_is_not_given_when_the_policies_choose_another_route(
    cached: RunningGateway, student: BackendThread, teacher: BackendThread
) -> None:
    sure, unsure = ({"router": {"retrieval_confidence": value}} for value in (0.9, 0.1))
    answers = [cached.post(BODY | evidence) for evidence in (sure, unsure, unsure, sure)]
    assert [answer.headers["x-router-cache"] for answer in answers] == ["miss", "miss", "hit", "hit"]
    assert [answer.headers["x-router-route"] for answer in answers] == ["student", "teacher", "teacher", "student"]
    assert (chats(student), chats(teacher)) == (1, 1)


def test_hit_uses_no_tokens_of_the_tenant(start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=ON + "[limits]\ntokens_per_minute = 100000")
    answers = [gateway.post(BODY | {"max_tokens": 1000}) for _ in range(5)]
    assert [answer.headers["x-router-cache"] for answer in answers] == ["miss"] + ["hit"] * 4
    left = [int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in answers]
    assert left[4] >= left[1] > 98_000


def test_degraded_answer_is_not_kept(start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=ON, teacher_url="http://127.0.0.1:9/v1")
    answers = [gateway.post(BODY | {"router": {"retrieval_confidence": 0.1}}) for _ in range(2)]
    assert [answer.headers["x-router-degraded"] for answer in answers] == ["teacher_unavailable"] * 2
    assert [answer.headers["x-router-cache"] for answer in answers] == ["miss"] * 2


def test_error_is_not_kept(start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=ON, student_model="fault-status-400")
    assert [gateway.post(BODY).headers["x-router-cache"] for _ in range(2)] == ["miss", "miss"]


def test_answer_is_asked_for_again_when_its_time_is_over(start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=ON + "ttl_s = 0.001")
    assert [gateway.post(BODY).headers["x-router-cache"] for _ in range(2)] == ["miss", "miss"]


def test_cache_is_off_by_default(gateway: RunningGateway, student: BackendThread) -> None:
    assert all("x-router-cache" not in gateway.post(BODY).headers for _ in range(2))
    assert chats(student) == 2


def _shared_state(gateway: RunningGateway) -> Any:
    answer = httpx.get(f"{gateway.origin}/readyz")
    assert answer.status_code == 200  # whatever the state: requests are answered
    return answer.json()["state"]


def test_replicas_share_answers_in_redis_and_go_on_without_it(
    start_gateway: StartGateway, student: BackendThread, wait_until: WaitUntil
) -> None:
    redis = start_redis()
    try:
        rest = f'{ON}[state]\nurl = "{redis.url}"\ntimeout_s = 5.0'
        one, other = start_gateway(rest=rest), start_gateway(rest=rest)
        wait_until(lambda: all(_shared_state(each)["reachable"] for each in (one, other)))
        assert one.post(BODY).headers["x-router-cache"] == "miss"
        wait_until(lambda: one.post(BODY).headers["x-router-cache"] == "hit")  # it is kept behind the last byte
        assert other.post(BODY).headers["x-router-cache"] == "hit"
        assert _shared_state(other) == {"kind": "unix", "reachable": True}
        redis.stop()
        answers = [other.post(BODY) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert [answer.headers["x-router-cache"] for answer in answers] == ["miss"] * 3
        assert other.metric('router_state_errors_total{feature="cache"}') >= 3
        assert _shared_state(other) == {"kind": "unix", "reachable": False, "failure": "Redis cannot be reached"}
        assert other.metric("router_state_up") == 0
    finally:
        redis.stop()
        shutil.rmtree(redis.folder)
