"""`/v1/embeddings` when its backend fails, and the one record that every request for it leaves."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from policies.record import DecisionRecord
from router.config import ConfigError
from router.config_file import parse
from tests.contract.conftest import RunningGateway, StartGateway
from tests.security.certificates import NEEDED, Authority
from tests.security.test_tls import TlsBackend

AUTH = '[auth]\nkeys_env = "KEYS"\n'
KEYS = {"KEYS": "acme=acme-secret-key,beta=beta-secret-key"}
QUICK = "[resilience.retries]\nbase_delay_s = 0.001\nmax_delay_s = 0.001\n"
TEXT = "a text that must not be kept"

StartEmbeddings = Callable[..., RunningGateway]


@pytest.fixture
def start(start_gateway: StartGateway, student: BackendThread) -> StartEmbeddings:
    """Starts a gateway whose embeddings come from a fake backend; the model's name chooses what that does."""

    def started(
        model: str = "student", *, table: str = "", url: str | None = None, environ: dict[str, str] | None = None,
        **parts: str,
    ) -> RunningGateway:  # fmt: skip
        own = f'[embeddings]\nbase_url = "{url or student.base_url}"\nmodel = "{model}"\naliases = ["small"]\n{table}\n'
        return start_gateway(environ, rest=f"{own}{QUICK}{parts.pop('rest', '')}", **parts)

    return started


def embed(gateway: RunningGateway, text: Any = TEXT, headers: dict[str, str] | None = None, **body: Any) -> Any:
    body = {"model": "small", "input": text} | body
    return httpx.post(f"{gateway.origin}/v1/embeddings", json=body, headers=headers, timeout=20)


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}-secret-key"}


def asked(backend: BackendThread) -> int:
    return sum(received.path == "/v1/embeddings" for received in backend.state.received)


@pytest.mark.parametrize("fault", ["fault-503", "fault-429-retry-after-0", "fault-reset", "fault-close"])
def test_backend_is_asked_again_when_it_fails_once(start: StartEmbeddings, student: BackendThread, fault: str) -> None:
    gateway = start(f"{fault}-times-1")
    assert embed(gateway).status_code == 200
    assert asked(student) == 2
    assert gateway.total("router_retries_total") == 1
    (record,) = gateway.records()
    assert (record.outcome, record.status) == ("ok", 200)


def test_refusal_and_timeout_are_not_repeated(start: StartEmbeddings, student: BackendThread) -> None:
    assert embed(start("fault-422")).status_code == 422
    slow = embed(start("fault-hang", table="request_timeout_s = 0.2"))
    assert (slow.status_code, slow.json()["error"]["code"]) == (503, "no_backend_available")
    assert asked(student) == 2


def test_breaker_leaves_a_broken_backend_alone_and_says_for_how_long(
    start: StartEmbeddings, student: BackendThread
) -> None:
    breaker = "[resilience.breaker]\nconsecutive_failures = 1\nopen_s = 40.0\n"
    gateway = start("fault-503", rest=breaker)
    assert embed(gateway).status_code == 503
    before = asked(student)
    refused = embed(gateway)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "40")
    assert asked(student) == before == 1
    assert gateway.metric('router_breaker_state{replica="embeddings"}') == 2
    (shown,) = httpx.get(f"{gateway.origin}/readyz").json()["embeddings"]
    assert shown["replicas"][0]["breaker"] == "open"
    assert [record.outcome for record in gateway.records()] == ["backend_error", "backend_error"]


def test_failure_of_embeddings_does_not_count_for_the_models(start: StartEmbeddings) -> None:
    gateway = start("fault-503", rest="[resilience.breaker]\nconsecutive_failures = 1\n")
    embed(gateway)
    assert gateway.metric('router_breaker_state{replica="teacher"}') == 0
    assert gateway.post({"model": "teacher", "messages": [{"role": "user", "content": "Hi"}]}).status_code == 200


def test_record_has_tokens_and_cost_and_no_text(start: StartEmbeddings) -> None:
    gateway = start(table="price_usd_per_1m_input_tokens = 0.5")
    tags = {"team": "search"}
    answer = embed(gateway, [TEXT, TEXT], router={"tags": tags, "session": "s", "purpose": "traffic"})
    tokens = answer.json()["usage"]["prompt_tokens"]
    (record,) = gateway.records()
    assert record.decision_id == answer.headers["x-router-decision-id"]
    assert (record.endpoint, record.purpose, record.requested_model) == ("/v1/embeddings", "embedding", "small")
    assert (record.route, record.reason, record.features, record.draft) == (None, "embeddings", None, None)
    assert record.usage is not None
    assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (tokens, 0)
    assert record.cost_usd == pytest.approx(tokens * 0.5e-6)
    assert record.counterfactual_cost_usd is None
    assert (record.tags, record.session) == (tags, "s")
    assert (record.capture, record.request, record.completion) == ("metadata", None, None)
    assert all(TEXT.encode() not in path.read_bytes() for path in Path(gateway.config.log.dir).iterdir())
    assert gateway.metric("router_embedding_cost_usd_total") == pytest.approx(record.cost_usd)
    assert gateway.metric("router_embedding_duration_seconds_count") == 1
    assert gateway.total("router_requests_total") == 0


@pytest.mark.parametrize(
    ("rest", "router"),
    [('[auth]\nkeys_env = "KEYS"\n[tenants.acme]\ncapture = "none"\n', {}), (AUTH, {"train": "none"})],
    ids=["tenant", "request"],
)
def test_nothing_is_recorded_when_nothing_may_be_kept(
    start: StartEmbeddings, rest: str, router: dict[str, str]
) -> None:
    gateway = start(rest=rest, environ=KEYS)
    assert embed(gateway, headers=key("acme"), router=router).status_code == 200
    assert gateway.records() == []
    assert gateway.metric('router_embedding_requests_total{outcome="ok"}') == 1


def test_every_way_out_leaves_exactly_one_record(start: StartEmbeddings, start_gateway: StartGateway) -> None:
    """In the order of the requests: who is it, is it there, what does it say, may it, can it."""
    gateway = start(rest=f'{AUTH}[tenants.beta]\nallowed_models = ["student"]\n', environ=KEYS)
    embed(gateway)
    embed(gateway, headers={**key("acme"), "content-encoding": "gzip"})
    embed(gateway, headers=key("acme"), text="")
    embed(gateway, headers=key("acme"), model="other")
    embed(gateway, headers=key("acme"), router={"train": "perhaps"})
    embed(gateway, headers=key("beta"))
    embed(gateway, headers=key("acme"))
    found = [(record.status, record.outcome, record.tenant) for record in _in_order(gateway)]
    assert found == [
        (401, "rejected", "default"), (415, "client_error", "acme"), (400, "client_error", "acme"),
        (404, "client_error", "acme"), (400, "client_error", "acme"), (403, "rejected", "beta"), (200, "ok", "acme"),
    ]  # fmt: skip


def test_request_for_embeddings_that_are_not_configured_leaves_a_record(gateway: RunningGateway) -> None:
    assert embed(gateway).status_code == 404
    (record,) = gateway.records()
    assert (record.endpoint, record.status, record.error_code) == ("/v1/embeddings", 404, "not_found")


def test_client_that_leaves_is_in_the_record_and_its_call_is_cancelled(
    start: StartEmbeddings, student: BackendThread, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    gateway = start("fault-hang")
    aborted = student.state.stats()["aborted"]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{gateway.origin}/v1/embeddings", json={"model": "small", "input": "a"}, timeout=0.5)
    wait_until(lambda: len(gateway.records()) == 1)
    assert (gateway.records()[0].status, gateway.records()[0].outcome) == (499, "client_disconnected")
    wait_until(lambda: student.state.stats()["aborted"] == aborted + 1)
    assert gateway.metric("router_inflight_requests") == 0


def test_request_that_runs_when_the_gateway_ends_leaves_a_record(
    start: StartEmbeddings, student: BackendThread, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    gateway = start("fault-hang", server="drain_timeout_s = 0.1")
    answers: list[int] = []
    client = threading.Thread(target=lambda: answers.append(embed(gateway).status_code))
    client.start()
    wait_until(lambda: asked(student) == 1)
    gateway.stop()
    client.join(20)
    (record,) = gateway.records()
    assert answers == [record.status] == [503]
    assert record.error_code == "shutting_down"


def test_budget_is_charged_with_what_was_used_and_then_refuses(start: StartEmbeddings) -> None:
    """Of a failed request nothing is charged."""
    limits = f"{AUTH}[tenants.acme]\nbudget_usd_per_day = 0.005\n"
    gateway = start("fault-422-times-3", table="price_usd_per_1m_input_tokens = 10.0", rest=limits, environ=KEYS)
    texts = ["x" * 200] * 8  # 400 tokens, 0.004 USD
    assert [embed(gateway, texts, key("acme")).status_code for _ in range(5)] == [422, 422, 422, 200, 429]
    assert embed(gateway, texts, key("beta")).status_code == 200
    assert [record.cost_usd for record in _in_order(gateway)][3] == pytest.approx(0.004)


def test_trace_headers_of_the_client_reach_the_backend_and_its_key_does_not(
    start: StartEmbeddings, student: BackendThread
) -> None:
    gateway = start(rest=AUTH, environ=KEYS)
    embed(gateway, headers={**key("acme"), "traceparent": "00-11-22-01"})
    received = student.state.received[-1]
    assert received.header("traceparent") == b"00-11-22-01"
    assert received.header("authorization") is None


@NEEDED
def test_backend_of_an_own_ca_is_called_and_one_of_another_is_not(
    start: StartEmbeddings, student: BackendThread, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    shown, other = authority.issue("embeddings"), Authority(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.cert, shown.key)
    with TlsBackend(student, context) as url:
        trusting = start(url=url, table=f'[embeddings.tls]\nca_file = "{authority.cert}"')
        assert embed(trusting).status_code == 200
        before = asked(student)
        refusing = start(url=url, table=f'[embeddings.tls]\nca_file = "{other.cert}"')
        assert embed(refusing).status_code == 503
    assert asked(student) == before


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('api_key_env = "KEYS"', r"embeddings\.api_key_env"),
        ('[embeddings.tls]\nca_file = "no.pem"', r"embeddings\.tls"),
    ],
)
def test_wrong_option_is_named_by_its_table(start: StartEmbeddings, table: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        start(url="https://127.0.0.1:1/v1", table=table, environ={"KEYS": "two words"})


def test_tls_has_no_effect_without_a_backend() -> None:
    text = '[student]\nbase_url = "http://a/v1"\n[teacher]\nbase_url = "http://b/v1"\n[embeddings.tls]\nca_file = "a"\n'
    with pytest.raises(ConfigError, match=r"embeddings\.tls"):
        parse(text)


def _in_order(gateway: RunningGateway) -> list[DecisionRecord]:
    return sorted(gateway.records(), key=lambda record: record.created_s)
