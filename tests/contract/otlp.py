"""An OTLP receiver: a real HTTP or gRPC server that decodes what an exporter sends."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TraceRequest = trace_service_pb2.ExportTraceServiceRequest
MetricsRequest = metrics_service_pb2.ExportMetricsServiceRequest


class Received:
    """Everything that came."""

    def __init__(self) -> None:
        self.url = ""
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.traces: list[Any] = []
        self.metrics: list[Any] = []

    @property
    def spans(self) -> list[Span]:
        return [
            span for sent in self.traces for resource in sent.resource_spans for scope in resource.scope_spans
            for span in scope.spans
        ]  # fmt: skip

    def latest(self, name: str) -> Metric:
        """A metric as it stood in the last delivery that has it."""
        found = [
            metric for sent in self.metrics for resource in sent.resource_metrics for scope in resource.scope_metrics
            for metric in scope.metrics if metric.name == name
        ]  # fmt: skip
        assert found, name
        return found[-1]

    def resource(self) -> dict[str, Any]:
        return values(self.traces[0].resource_spans[0].resource.attributes)

    def wait(self, condition: Callable[[Received], bool]) -> None:
        deadline_s = time.monotonic() + 15
        while not condition(self):
            assert time.monotonic() < deadline_s, "it never came"
            time.sleep(0.01)


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as a dictionary."""

    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        return [plain(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)

    return {attribute.key: plain(attribute.value) for attribute in attributes}


@contextmanager
def http_receiver(*, status: int = 200, delay_s: float = 0.0) -> Iterator[Received]:
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            time.sleep(delay_s)
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            received.raw.append(body)
            received.headers.append({name.lower(): value for name, value in self.headers.items()})
            if self.path == "/v1/traces":
                received.traces.append(TraceRequest.FromString(body))
            elif self.path == "/v1/metrics":
                received.metrics.append(MetricsRequest.FromString(body))
            self.send_response(status if self.path in ("/v1/traces", "/v1/metrics") else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    received.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield received
    server.shutdown()
    server.server_close()


@contextmanager
def grpc_receiver() -> Iterator[Received]:
    received = Received()

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
            received.headers.append(dict(context.invocation_metadata()))
            received.traces.append(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
            received.metrics.append(request)
            return metrics_service_pb2.ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    received.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield received
    server.stop(None)
