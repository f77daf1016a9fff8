"""Replicas and teachers that die, hang, refuse and come back, behind a real gateway."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from router.config_file import parse
from tests.contract.conftest import RunningGateway, chats
from tests.contract.test_disconnect import WaitUntil

CONFIG = """
[server]
port = 0
probe_interval_s = 60.0
request_timeout_s = {request_timeout_s}
[student]
model = "{student_model}"
context_window_tokens = 8192
price_usd_per_1m_input_tokens = 0.02
price_usd_per_1m_output_tokens = 0.04
first_token_timeout_s = {first_token_timeout_s}
request_timeout_s = {first_token_timeout_s}
spread = "{spread}"
{replicas}
[teacher]
base_url = "{teacher}"
model = "{teacher_model}"
price_usd_per_1m_input_tokens = 2.5
price_usd_per_1m_output_tokens = 10.0
distillation = "allowed"
{fallbacks}
[log]
dir = "{folder}/traffic"
write_timeout_s = 10.0
{rest}
"""
QUICK_BREAKER = "[resilience.breaker]\nconsecutive_failures = 3\nopen_s = 0.3\nmax_open_s = 0.3\n"
HI = [{"role": "user", "content": "hi"}]
PLAIN = {"model": "auto", "messages": HI}
STREAM = {**PLAIN, "stream": True}


def saying(directive: str, **fields: object) -> dict[str, object]:
    return {"model": "auto", "messages": [{"role": "user", "content": f"[[{directive}]]"}], **fields}


class Site:
    """Starts replicas and a gateway in front of them."""

    def __init__(self, teacher: BackendThread, folder: Path) -> None:
        self.teacher = teacher
        self.folder = folder
        self._running = ExitStack()

    def replica(self, signature: str, port: int = 0) -> BackendThread:
        return self._running.enter_context(BackendThread(models=("student",), signature=signature, port=port))

    def gateway(
        self, *urls: str, rest: str = "", environ: dict[str, str] | None = None, **values: object
    ) -> RunningGateway:
        replicas = "".join(f'[[student.replicas]]\nbase_url = "{url}"\n' for url in urls)
        given = {
            "replicas": replicas, "teacher": self.teacher.base_url, "teacher_model": "teacher", "student_model": "student", "fallbacks": "",
            "folder": self.folder, "rest": rest, "spread": "session", "first_token_timeout_s": 10.0,
            "request_timeout_s": 60.0,
        }  # fmt: skip
        gateway = RunningGateway(parse(CONFIG.format(**(given | values))), environ or {})
        gateway.start()
        self._running.callback(gateway.stop)
        return gateway

    def close(self) -> None:
        self._running.close()


@pytest.fixture
def site(teacher: BackendThread, tmp_path: Path) -> Iterator[Site]:
    teacher.state.reset()
    made = Site(teacher, tmp_path)
    yield made
    made.close()


def ask(gateway: RunningGateway, times: int, body: object = PLAIN, threads: int = 4) -> list[httpx.Response]:
    """Several clients at once."""
    answers: list[httpx.Response] = []
    clients = [
        threading.Thread(target=lambda: answers.extend(gateway.post(body) for _ in range(times // threads)))
        for _ in range(threads)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return answers


def routes(answers: list[httpx.Response]) -> set[tuple[int, str]]:
    return {(answer.status_code, answer.headers["x-router-route"]) for answer in answers}


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


@pytest.mark.parametrize("body", [PLAIN, STREAM])
def test_dead_replica_is_ejected_without_a_failed_request_and_comes_back_by_itself(
    site: Site, body: object, wait_until: WaitUntil
) -> None:
    living = site.replica("ALPHA")
    with BackendThread(models=("student",), signature="BETA") as dying:
        port = int(dying.origin.rpartition(":")[2])
        gateway = site.gateway(living.base_url, dying.base_url, rest=QUICK_BREAKER)
        assert routes(ask(gateway, 16, body)) == {(200, "student")}
        assert chats(dying) > 0
    assert routes(ask(gateway, 40, body)) == {(200, "student")}
    assert gateway.metric('router_breaker_state{replica="student-2"}') >= 1
    assert gateway.metric('router_breaker_state{replica="student-1"}') == 0
    assert gateway.total("router_retries_total") >= 3
    assert chats(site.teacher) == 0
    with BackendThread(models=("student",), signature="BETA", port=port) as risen:

        def is_back() -> bool:
            assert routes(ask(gateway, 4, body)) == {(200, "student")}
            return gateway.metric('router_breaker_state{replica="student-2"}') == 0 and chats(risen) > 1

        wait_until(is_back)
    assert all(record.fallback_cause is None for record in gateway.records())


def test_teacher_answers_every_request_when_all_replicas_are_dead(site: Site) -> None:
    with BackendThread() as first, BackendThread() as second:
        urls = first.base_url, second.base_url
    gateway = site.gateway(*urls, rest=QUICK_BREAKER.replace("0.3", "60.0"))
    answers = ask(gateway, 24)
    assert routes(answers) == {(200, "teacher")}
    reasons = [answer.headers["x-router-reason"] for answer in answers]
    assert set(reasons) == {"fallback_connect_error", "fallback_breaker_open"}
    assert reasons[-1] == "fallback_breaker_open"  # nobody waits for the dead any more
    states = {r["name"]: r["breaker"] for r in httpx.get(f"{gateway.origin}/readyz").json()["student"]["replicas"]}
    assert states == {"student-1": "open", "student-2": "open"}


@pytest.mark.parametrize("body", [PLAIN, STREAM])
def test_hanging_replica_costs_a_timeout_and_then_nothing(site: Site, body: object) -> None:
    living = site.replica("ALPHA")
    with silent_server() as hanging:
        rest = QUICK_BREAKER.replace("0.3", "60.0").replace("= 3", "= 2")
        gateway = site.gateway(living.base_url, hanging, rest=rest, first_token_timeout_s=2.0)
        assert routes(ask(gateway, 16, body)) == {(200, "student")}
    assert gateway.metric('router_breaker_state{replica="student-2"}') == 2
    assert gateway.metric('router_retries_total{cause="timeout"}') >= 2


def test_short_retry_after_is_waited_for_and_a_long_one_is_not(site: Site) -> None:
    gateway = site.gateway(site.replica("ALPHA").base_url)
    patient = gateway.post(saying("fault-429-retry-after-1-times-1"))
    assert (patient.headers["x-router-route"], patient.headers["x-router-reason"]) == ("student", "default")
    assert gateway.metric('router_retries_total{cause="rate_limited"}') == 1
    busy = site.gateway(site.replica("BETA").base_url, student_model="fault-429-retry-after-30").post(PLAIN)
    assert (busy.headers["x-router-route"], busy.headers["x-router-reason"]) == ("teacher", "fallback_rate_limited")


def test_retry_after_reaches_the_client_when_everybody_is_rate_limited(site: Site) -> None:
    gateway = site.gateway(site.replica("ALPHA").base_url)
    response = gateway.post(saying("fault-429-retry-after-30"))
    assert (response.status_code, response.headers["retry-after"]) == (429, "30")
    assert response.json()["error"]["code"] == "rate_limit_exceeded"


def test_retries_stay_within_their_budget_when_the_teacher_fails(site: Site) -> None:
    rest = (
        "[resilience.retries]\nbudget_ratio = 0.1\nbudget_burst = 3\nbase_delay_s = 0.001\n"
        "[resilience.breaker]\nconsecutive_failures = 1000\nmin_requests = 1000\n"
    )
    gateway = site.gateway(site.replica("ALPHA").base_url, rest=rest)
    answers = ask(gateway, 40, {**saying("fault-500"), "model": "teacher"})
    assert {answer.status_code for answer in answers} == {503}
    retries = gateway.metric('router_retries_total{cause="server_error"}')
    assert 3 <= retries <= 3 + 0.1 * 40
    assert chats(site.teacher) == 40 + retries


def test_rate_limited_or_refused_requests_eject_nobody(site: Site) -> None:
    gateway = site.gateway(site.replica("ALPHA").base_url, rest=QUICK_BREAKER)
    for directive in ("fault-429-retry-after-30", "fault-400", "fault-404"):
        ask(gateway, 8, saying(directive))
    assert gateway.metric('router_breaker_state{replica="student-1"}') == 0
    assert gateway.post(PLAIN).headers["x-router-route"] == "student"


def test_next_teacher_answers_at_its_own_price_and_licence(site: Site) -> None:
    with BackendThread(models=("other",), signature="OTHER") as second:
        fallbacks = (
            f'[[teacher.fallbacks]]\nbase_url = "{second.base_url}"\nmodel = "other"\nname = "second"\n'
            "price_usd_per_1m_input_tokens = 1.0\nprice_usd_per_1m_output_tokens = 1.0\n"
        )
        gateway = site.gateway(
            site.replica("ALPHA").base_url, fallbacks=fallbacks, teacher_model="fault-503", rest=QUICK_BREAKER
        )
        response = gateway.post({**PLAIN, "model": "teacher"})
        assert response.status_code == 200
        assert "OTHER" in response.text
        assert (response.headers["x-router-route"], response.headers["x-router-reason"]) == (
            "teacher",
            "fallback_server_error",
        )
        record = gateway.records()[-1]
        usage = record.usage
        assert usage is not None
        assert record.cost_usd == pytest.approx((usage.prompt_tokens + usage.completion_tokens) / 1e6)
        dearer = (usage.prompt_tokens * 2.5 + usage.completion_tokens * 10) / 1e6
        assert record.counterfactual_cost_usd == pytest.approx(dearer)
        assert (record.teacher, record.distillation) == ("other", "denied")
        assert gateway.metric('router_replica_up{replica="second"}') == 1
        ready = httpx.get(f"{gateway.origin}/readyz").json()
        assert [pool["model"] for pool in ready["teacher_fallbacks"]] == ["other"]


def words(response: httpx.Response) -> str:
    text: str = response.json()["choices"][0]["message"]["content"]
    return text.partition(" ")[0]


def test_session_stays_at_one_replica_and_others_are_spread(site: Site) -> None:
    gateway = site.gateway(*(site.replica(name).base_url for name in ("ALPHA", "BETA", "GAMMA")))
    session = {**PLAIN, "router": {"session": "conversation-17"}}
    assert len({words(answer) for answer in ask(gateway, 8, session, threads=1)}) == 1
    assert len({words(answer) for answer in ask(gateway, 24, threads=1)}) == 3


def test_prompts_with_the_same_beginning_go_to_one_replica(site: Site) -> None:
    gateway = site.gateway(*(site.replica(name).base_url for name in ("ALPHA", "BETA", "GAMMA")), spread="prefix")
    system = {"role": "system", "content": "You answer from this manual. " * 60}

    def asked(beginning: str, question: str) -> str:
        user = {"role": "user", "content": question}
        return words(
            gateway.post({"model": "student", "messages": [{**system, "content": beginning + system["content"]}, user]})
        )

    assert len({asked("", f"question {number}") for number in range(8)}) == 1
    assert len({asked(f"{number}", "question") for number in range(16)}) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_slow_answer_is_hedged_and_the_slower_call_cancelled(
    site: Site, stream: bool, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    student = site.replica("ALPHA")
    gateway = site.gateway(student.base_url, rest="[resilience.hedging]\nenabled = true\n")
    ask(gateway, 24, {**PLAIN, "stream": stream})
    student.state.reset()
    response = gateway.post(saying("fault-hang-times-1", stream=stream))
    assert response.status_code == 200
    assert response.headers["x-router-route"] == "student"
    wait_until(lambda: student.state.aborted == 1)
    assert gateway.metric('router_hedges_total{outcome="won"}') == 1
    assert student.state.requests == 2
    assert len(gateway.records()) == 25
    assert httpx.get(f"{gateway.origin}/readyz").json()["student"]["replicas"][0]["inflight_requests"] == 0


def test_both_calls_are_cancelled_when_the_client_leaves_a_hedged_request(site: Site, wait_until: WaitUntil) -> None:
    student = site.replica("ALPHA")
    gateway = site.gateway(student.base_url, rest="[resilience.hedging]\nenabled = true\n")
    ask(gateway, 24)
    student.state.reset()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{gateway.origin}/v1/chat/completions", json=saying("fault-hang"), timeout=3.0)
    wait_until(lambda: student.state.aborted == 2)
    wait_until(lambda: gateway.records()[-1].outcome == "client_disconnected")
    assert chats(site.teacher) == 0


def test_request_ends_at_its_deadline_whoever_hangs(site: Site, wait_until: WaitUntil) -> None:
    student = site.replica("ALPHA")
    gateway = site.gateway(student.base_url, first_token_timeout_s=0.5, request_timeout_s=0.8)
    response = gateway.post(saying("fault-hang"))
    assert response.status_code == 504
    assert gateway.records()[-1].outcome == "timeout"
    assert chats(site.teacher) == 1
    wait_until(lambda: site.teacher.state.in_flight == student.state.in_flight == 0)
