"""Traces and metrics of a running gateway, as an OTLP receiver gets them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from loadtests.fake_backend import BackendThread
from router.config import ConfigError
from router.config_file import parse
from tests.contract.conftest import CONFIG, RunningGateway, StartGateway
from tests.contract.otlp import Received, grpc_receiver, http_receiver, values

TABLE = '[telemetry]\nendpoint = "{}"\ntraces_interval_s = 0.05\nmetrics_interval_s = 0.1\n'
DOUBTER = '[[routing.policies]]\ntype = "tests.contract.reviewers:EarlyDoubter"\n'
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT.removesuffix("01") + "00"
PROMPT = "a prompt that nobody may read"


@pytest.fixture
def received() -> Iterator[Received]:
    """A receiver that outlives the gateway: ask for it first."""
    with http_receiver() as receiver:
        yield receiver


def ask(gateway: RunningGateway, content: str = PROMPT, headers: dict[str, str] | None = None, **more: Any) -> Any:
    body = {"model": "auto", "messages": [{"role": "user", "content": content}], **more}
    return gateway.post(body, headers=headers or {})


def by_name(received: Received) -> dict[str, list[Span]]:
    found: dict[str, list[Span]] = {}
    for span in received.spans:
        found.setdefault(span.name, []).append(span)
    return found


def server_spans(received: Received) -> list[Span]:
    return [span for span in received.spans if span.kind == Span.SPAN_KIND_SERVER]


def test_trace_of_a_request_has_its_phases_and_calls(received: Received, start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=TABLE.format(received.url))
    answer = ask(gateway, stream=True, max_tokens=5)
    received.wait(lambda r: bool(server_spans(r)))
    spans = by_name(received)
    assert set(spans) == {"POST /v1/chat/completions", "evaluate policies", "admit", "chat student"}
    (server,), (call,) = spans["POST /v1/chat/completions"], spans["chat student"]
    assert {span.trace_id for span in received.spans} == {server.trace_id}
    assert all(span.parent_span_id == server.span_id for span in received.spans if span is not server)
    about = values(server.attributes)
    (record,) = gateway.records()
    assert about["locum.decision_id"] == record.decision_id == answer.headers["x-router-decision-id"]
    assert (about["locum.route"], about["locum.reason"], about["locum.outcome"]) == ("student", "default", "ok")
    assert (about["http.route"], about["http.response.status_code"]) == ("/v1/chat/completions", 200)
    assert [event.name for event in server.events] == ["first token"]
    assert server.start_time_unix_nano <= server.events[0].time_unix_nano <= server.end_time_unix_nano
    of_call = values(call.attributes)
    assert call.kind == Span.SPAN_KIND_CLIENT
    assert record.usage is not None
    expected = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "student",
        "gen_ai.request.stream": True, "gen_ai.response.finish_reasons": [record.finish_reason], "server.address": "127.0.0.1",
        "gen_ai.usage.input_tokens": record.usage.prompt_tokens, "gen_ai.usage.output_tokens": record.usage.completion_tokens,
    }  # fmt: skip
    assert expected.items() <= of_call.items()
    assert 0 < of_call["gen_ai.response.time_to_first_chunk"] <= record.latency_s
    assert received.resource()["service.name"] == "locum"


def test_trace_of_an_escalation_has_draft_review_and_teacher(received: Received, start_gateway: StartGateway) -> None:
    gateway = start_gateway(
        rest=DOUBTER + TABLE.format(received.url),
        student_model="fake-logprob-2.5-tokens-5",
        teacher_model="teacher",
    )
    ask(gateway)
    received.wait(lambda r: bool(server_spans(r)))
    spans = by_name(received)
    (review,), (draft,) = spans["review draft"], spans["chat fake-logprob-2.5-tokens-5"]
    (teacher,) = spans["chat teacher"]
    assert values(review.attributes)["locum.escalated"] is True
    assert values(draft.attributes)["gen_ai.usage.output_tokens"] == 5
    assert values(teacher.attributes)["gen_ai.usage.output_tokens"] == 8
    assert draft.end_time_unix_nano <= review.start_time_unix_nano <= teacher.start_time_unix_nano
    assert values(teacher.attributes)["locum.attempt"] == 2


def test_failed_call_is_an_error_of_its_span_and_not_of_the_request(
    received: Received, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(rest=TABLE.format(received.url), student_model="fake-500")
    assert ask(gateway).status_code == 200
    received.wait(lambda r: bool(server_spans(r)))
    spans = by_name(received)
    failed = spans["chat fake-500"]
    assert failed
    assert all(span.status.code == Status.STATUS_CODE_ERROR for span in failed)
    assert {values(span.attributes)["error.type"] for span in failed} == {"server_error"}
    (server,) = server_spans(received)
    assert server.status.code == Status.STATUS_CODE_UNSET
    assert values(server.attributes)["locum.reason"] == "fallback_server_error"


def test_trace_of_the_client_is_continued_and_goes_on_to_the_backend(
    received: Received, start_gateway: StartGateway, student: BackendThread
) -> None:
    gateway = start_gateway(rest=TABLE.format(received.url))
    ask(gateway, headers={"traceparent": PARENT, "tracestate": "vendor=1"})
    received.wait(lambda r: bool(server_spans(r)))
    (server,) = server_spans(received)
    (call,) = by_name(received)["chat student"]
    assert server.trace_id.hex() == PARENT.split("-")[1]
    assert server.parent_span_id.hex() == PARENT.split("-")[2]
    sent = student.state.received[-1]
    assert sent.header("traceparent") == f"00-{call.trace_id.hex()}-{call.span_id.hex()}-01".encode()
    assert sent.header("tracestate") == b"vendor=1"


def test_request_is_not_traced_when_its_client_did_not_sample_it(
    received: Received, start_gateway: StartGateway, student: BackendThread
) -> None:
    gateway = start_gateway(rest=TABLE.format(received.url))
    ask(gateway, headers={"traceparent": UNSAMPLED})
    ask(gateway)
    received.wait(lambda r: bool(server_spans(r)))
    gateway.begin_stop()
    assert len(server_spans(received)) == 1
    sent = (student.state.received[-2].header("traceparent") or b"").decode()
    assert sent.split("-")[1] == UNSAMPLED.split("-")[1]
    assert sent.endswith("-00")


@pytest.mark.parametrize("traceparent", [PARENT, "nonsense", ""])
def test_no_context_reaches_the_backend_when_propagation_is_off(
    received: Received, start_gateway: StartGateway, student: BackendThread, traceparent: str
) -> None:
    gateway = start_gateway(rest=TABLE.format(received.url) + "propagate = false\n")
    assert ask(gateway, headers={"traceparent": traceparent}).status_code == 200
    assert student.state.received[-1].header("traceparent") is None


def points(received: Received, name: str) -> dict[tuple[Any, ...], Any]:
    return {
        tuple(sorted(values(point.attributes).items())): point for point in received.latest(name).histogram.data_points
    }


def test_metrics_are_those_of_the_genai_conventions(received: Received, start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=TABLE.format(received.url), student_model="student")
    for _ in range(3):
        ask(gateway)
    ask(gateway, stream=True)
    ask(gateway, model="teacher")
    used = [record.usage for record in gateway.records() if record.usage is not None]
    total = sum(usage.prompt_tokens + usage.completion_tokens for usage in used)

    def complete(r: Received) -> bool:
        return bool(r.metrics) and sum(p.count for p in points(r, "gen_ai.server.request.duration").values()) == 5

    received.wait(complete)
    tokens = points(received, "gen_ai.client.token.usage")
    calls = points(received, "gen_ai.client.operation.duration")
    assert sum(point.sum for point in tokens.values()) == total
    assert {dict(key)["gen_ai.token.type"] for key in tokens} == {"input", "output"}
    assert {dict(key)["gen_ai.request.model"]: point.count for key, point in calls.items()} == {
        "student": 4,
        "teacher": 1,
    }
    (first,) = points(received, "gen_ai.client.operation.time_to_first_chunk").values()
    assert first.count == 1
    assert received.latest("gen_ai.client.token.usage").unit == "{token}"
    assert list(next(iter(tokens.values())).explicit_bounds)[:4] == [1, 4, 16, 64]
    assert received.latest("gen_ai.client.operation.duration").unit == "s"


def test_attributes_stay_bounded_when_clients_send_odd_values(received: Received, start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=TABLE.format(received.url))
    for number in range(20):
        ask(gateway, model=f"model-{number}")
        ask(gateway, user=f"user-{number}", router={"session": f"s{number}", "tags": {"team": f"t{number}"}})
    received.wait(lambda r: len(server_spans(r)) == 40)
    received.wait(
        lambda r: bool(r.metrics) and sum(p.count for p in points(r, "gen_ai.server.request.duration").values()) == 40
    )
    assert len(points(received, "gen_ai.server.request.duration")) <= 2
    assert len(points(received, "gen_ai.client.operation.duration")) == 1
    assert {span.name for span in received.spans} <= {
        "POST /v1/chat/completions",
        "evaluate policies",
        "admit",
        "chat student",
    }


def test_no_content_key_or_header_is_sent(received: Received, start_gateway: StartGateway) -> None:
    keys = '[auth]\nkeys_env = "KEYS"\n'
    gateway = start_gateway(
        environ={"KEYS": "acme=planted-key-of-acme", "OTLP": "authorization=Bearer%20planted-otlp-key"},
        rest=keys + TABLE.format(received.url) + 'headers_env = "OTLP"\n',
    )
    for stream in (False, True):
        answer = ask(
            gateway, stream=stream, headers={"authorization": "Bearer planted-key-of-acme", "cookie": "planted-cookie"},
            user="planted-user", router={"session": "planted-session", "tags": {"team": "planted-tag"}},
        )  # fmt: skip
        assert answer.status_code == 200
    ask(gateway, model="planted-model", headers={"authorization": "Bearer planted-key-of-acme"})
    received.wait(lambda r: len(server_spans(r)) == 3)
    received.wait(lambda r: bool(r.metrics))
    sent = b"".join(received.raw)
    assert b"planted" not in sent
    assert PROMPT.encode() not in sent
    assert b"acme" not in sent
    assert received.headers[0]["authorization"] == "Bearer planted-otlp-key"


def test_spans_reach_a_grpc_receiver_when_configured(start_gateway: StartGateway) -> None:
    with grpc_receiver() as received:
        rest = TABLE.format(received.url) + 'protocol = "grpc"\nheaders_env = "OTLP"\n'
        gateway = start_gateway(environ={"OTLP": "x-token=planted"}, rest=rest)
        ask(gateway)
        received.wait(lambda r: bool(server_spans(r)) and bool(r.metrics))
    assert received.headers[0]["x-token"] == "planted"


@pytest.mark.parametrize("slow_s", [0.0, 30.0], ids=["down", "slow"])
def test_requests_do_not_wait_when_the_receiver_is_down_or_slow(
    start_gateway: StartGateway, slow_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.telemetry.exporting.STOP_S", 0.2)
    with http_receiver(status=503, delay_s=slow_s) as received:
        url = received.url if slow_s else "http://127.0.0.1:1"
        gateway = start_gateway(rest=TABLE.format(url) + "max_queued_spans = 8\ntimeout_s = 60.0\n")
        for _ in range(30):  # more spans than the queue holds
            assert ask(gateway).status_code == 200
        assert len(gateway.records()) == 30
        started_s = time.monotonic()
        gateway.stop()
        assert time.monotonic() - started_s < 30  # far less than the receiver would take


@pytest.mark.system
def test_nothing_of_opentelemetry_is_loaded_when_it_is_off() -> None:
    """But for what other packages import of it."""
    code = (
        "import sys; from router.app import Parts; from router.config_file import parse; "
        'Parts(parse(\'[student]\\nbase_url="http://127.0.0.1:1/v1"\\n[teacher]\\nbase_url="http://127.0.0.1:1/v1"\'), {});'
        "print([name for name in sys.modules if name.startswith(('opentelemetry.exporter', 'opentelemetry.sdk.trace'))])"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "[]"


def test_headers_are_refused_without_their_value_when_they_are_none() -> None:
    from router.telemetry.exporting import Telemetry

    text = CONFIG.format(
        server="", student="", teacher="", student_url="http://127.0.0.1:1/v1", teacher_url="http://127.0.0.1:1/v1",
        student_model="s", teacher_model="t", log_dir="", rest='[telemetry]\nheaders_env = "OTLP"\n',
    )  # fmt: skip
    config = parse(text).telemetry
    assert config is not None
    with pytest.raises(ConfigError, match=r"telemetry\.headers_env") as raised:
        Telemetry(config, {"OTLP": "planted secret without a name"})
    assert "planted" not in str(raised.value)
