"""Traces and metrics of `/v1/embeddings`, as an OTLP receiver gets them."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from loadtests.fake_backend import BackendThread
from router.config import TelemetryConfig
from router.config.embeddings import EmbeddingsConfig
from router.embeddings.local import Embedded, LocalModel
from router.embeddings.outcome import PATH, EmbeddingState
from router.embeddings.request import EmbeddingRequest
from router.resilience.deadline import Deadline
from router.telemetry.exporting import Telemetry
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.otlp import Received, http_receiver, values
from tests.contract.test_telemetry import PARENT, TABLE, by_name, points, server_spans

Start = Callable[..., RunningGateway]


@pytest.fixture
def received() -> Iterator[Received]:
    """A receiver that outlives the gateway: ask for it first."""
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture
def start(received: Received, start_gateway: StartGateway, student: BackendThread) -> Start:
    def started(model: str = "student", rest: str = "") -> RunningGateway:
        table = f'[embeddings]\nbase_url = "{student.base_url}"\nmodel = "{model}"\n'
        return start_gateway(rest=table + TABLE.format(received.url) + rest)

    return started


def embed(gateway: RunningGateway, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    body = {"model": "student", "input": ["a text that nobody may read", "two"], **more}
    return httpx.post(f"{gateway.origin}/v1/embeddings", json=body, headers=headers or {}, timeout=20)


def test_trace_of_embeddings_has_admission_and_call(received: Received, start: Start) -> None:
    gateway = start()
    answer = embed(gateway, encoding_format="base64")
    received.wait(lambda r: bool(server_spans(r)))
    spans = by_name(received)
    assert set(spans) == {"POST /v1/embeddings", "admit", "embeddings student"}
    (server,), (call,) = spans["POST /v1/embeddings"], spans["embeddings student"]
    assert all(span.parent_span_id == server.span_id for span in received.spans if span is not server)
    (record,) = gateway.records()
    about, of_call = values(server.attributes), values(call.attributes)
    assert about["locum.decision_id"] == record.decision_id == answer.headers["x-router-decision-id"]
    assert (about["locum.outcome"], about["http.response.status_code"]) == ("ok", 200)
    assert about["gen_ai.operation.name"] == of_call["gen_ai.operation.name"] == "embeddings"
    assert "locum.route" not in about
    assert call.kind == Span.SPAN_KIND_CLIENT
    assert record.usage is not None
    assert of_call["gen_ai.usage.input_tokens"] == record.usage.prompt_tokens
    assert "gen_ai.usage.output_tokens" not in of_call
    assert of_call["gen_ai.request.encoding_formats"] == ["base64"]
    assert b"nobody may read" not in b"".join(received.raw)


def test_every_call_of_a_failing_backend_has_its_span(received: Received, start: Start) -> None:
    assert embed(start("fault-503"), model="fault-503").status_code == 503
    received.wait(lambda r: bool(server_spans(r)))
    calls = by_name(received)["embeddings fault-503"]
    assert len(calls) > 1
    assert all(span.status.code == Status.STATUS_CODE_ERROR for span in calls)
    (server,) = server_spans(received)
    assert server.status.code == Status.STATUS_CODE_ERROR
    assert values(server.attributes)["http.response.status_code"] == 503


def test_trace_of_the_client_goes_on_to_the_backend(received: Received, start: Start, student: BackendThread) -> None:
    embed(start(), headers={"traceparent": PARENT})
    received.wait(lambda r: bool(server_spans(r)))
    (call,) = by_name(received)["embeddings student"]
    assert call.trace_id.hex() == PARENT.split("-")[1]
    sent = student.state.received[-1].header("traceparent")
    assert sent == f"00-{call.trace_id.hex()}-{call.span_id.hex()}-01".encode()


def test_metrics_of_embeddings_have_input_tokens_only(received: Received, start: Start) -> None:
    gateway = start()
    for _ in range(2):
        embed(gateway)
    embed(gateway, input="")

    def complete(r: Received) -> bool:
        return bool(r.metrics) and sum(p.count for p in points(r, "gen_ai.server.request.duration").values()) == 3

    received.wait(complete)
    tokens = points(received, "gen_ai.client.token.usage")
    assert [dict(key)["gen_ai.token.type"] for key in tokens] == ["input"]
    (calls,) = points(received, "gen_ai.client.operation.duration").values()
    assert calls.count == 2
    by_error = {
        dict(key).get("error.type"): p.count for key, p in points(received, "gen_ai.server.request.duration").items()
    }
    assert by_error[None] == 2
    assert sum(by_error.values()) == 3


async def test_model_in_this_process_has_a_span_of_its_call(received: Received) -> None:
    """The model is a fake; the real one has a test of its own with the marker `semantic`."""

    def vectors(texts: list[str]) -> Embedded:
        return Embedded([array("f", [0.25]) for _ in texts], len(texts))

    config = TelemetryConfig(endpoint=received.url, metrics_interval_s=0.1, traces_interval_s=0.05)
    generation = SimpleNamespace(bundle_id="student")
    async with Telemetry(config, {}) as telemetry, LocalModel(vectors, EmbeddingsConfig(model="m")) as local:
        state = EmbeddingState("d" * 32, time.monotonic(), generation)  # type: ignore[arg-type]
        telemetry.begin_embeddings(state, PATH, [])
        assert state.trace is not None
        request = EmbeddingRequest.parse(b'{"model":"m","input":"a"}', known_models=("m",), max_inputs=1)
        await local.answer(request, [], Deadline.after(20), state.trace)
        state.trace.end()
    spans = by_name(received)
    assert set(spans) == {"POST /v1/embeddings", "embeddings m"}
    about = values(spans["embeddings m"][0].attributes)
    assert about["gen_ai.provider.name"] == "sentence_transformers"
    assert "error.type" not in about
