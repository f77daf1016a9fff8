"""Where traces and metrics go: an OTLP receiver, in threads of the SDK that no request waits for."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_HEADERS
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind
from opentelemetry.util.re import parse_env_headers

from router.config import ConfigError, TelemetryConfig
from router.http_client import Headers
from router.telemetry import conventions as names
from router.telemetry.calls import Begun, incoming_context
from router.telemetry.embeddings import EmbeddingTrace
from router.telemetry.instruments import Instruments
from router.telemetry.trace import RequestTrace

if TYPE_CHECKING:
    from router.embeddings.outcome import EmbeddingState
    from router.request_state import RequestState

SCOPE = "locum"
STOP_S = 3.0
"""How long a gateway that stops waits for what is still to be sent."""
BATCH_SPANS = 512


class Exporters(NamedTuple):
    spans: SpanExporter | None
    metrics: MetricExporter | None


class Telemetry:
    """One a gateway process. `async with`: sends what waits when the block ends, for `STOP_S` at most."""

    def __init__(self, config: TelemetryConfig, environ: Mapping[str, str] = os.environ) -> None:
        """Raises: ConfigError."""
        exporters = _exporters(config, _headers(config, environ))
        resource = Resource.create({
            "service.name": config.service_name, "service.version": version("locum"),
            "service.instance.id": str(uuid.uuid4()),  # one a worker: their sums must not be taken for each other's
        })  # fmt: skip
        self._propagate = config.propagate
        self._tracers: TracerProvider | None = None
        self._meters: MeterProvider | None = None
        if exporters.spans is not None:
            self._tracers = TracerProvider(
                sampler=ParentBased(TraceIdRatioBased(config.sample_ratio)), resource=resource, shutdown_on_exit=False
            )
            self._tracers.add_span_processor(
                BatchSpanProcessor(
                    exporters.spans,
                    max_queue_size=config.max_queued_spans,
                    schedule_delay_millis=config.traces_interval_s * 1000,
                    max_export_batch_size=min(BATCH_SPANS, config.max_queued_spans),
                )
            )
        if exporters.metrics is not None:
            interval_ms = config.metrics_interval_s * 1000
            reader = PeriodicExportingMetricReader(
                exporters.metrics, export_interval_millis=interval_ms, export_timeout_millis=config.timeout_s * 1000
            )
            self._meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        self._tracer = self._tracers.get_tracer(SCOPE) if self._tracers is not None else None
        self._instruments = Instruments(self._meters.get_meter(SCOPE)) if self._meters is not None else None

    def begin(self, state: RequestState, headers: Headers) -> None:
        """Follow a request that has just arrived."""
        trace = RequestTrace(state, self._begun(state.dialect.path, state.created_s, headers))
        state.trace = trace
        state.watchers = (*state.watchers, trace)

    def begin_embeddings(self, state: EmbeddingState, path: str, headers: Headers) -> None:
        """Follow a request for embeddings that has just arrived."""
        state.trace = EmbeddingTrace(state, path, self._begun(path, state.created_s, headers))

    def _begun(self, path: str, created_s: float, headers: Headers) -> Begun:
        span = None
        if self._tracer is not None:
            span = self._tracer.start_span(
                f"POST {path}",
                incoming_context(headers),
                SpanKind.SERVER,
                {names.HTTP_METHOD: "POST", names.HTTP_ROUTE: path},
                start_time=int(created_s * 1e9),
            )
        return Begun(span, self._tracer, self._instruments, self._propagate)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stops = [provider.shutdown for provider in (self._tracers, self._meters) if provider is not None]
        await asyncio.gather(*map(_within_time, stops))


async def _within_time(stop: Callable[[], None]) -> None:
    """Run what may wait for the receiver in a thread that is left behind when it takes too long.

    A thread of the loop's own executor would be waited for when the loop is closed.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def run() -> None:
        stop()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(stopped.set)

    threading.Thread(target=run, name="telemetry-stop", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(STOP_S):
            await stopped.wait()


def _headers(config: TelemetryConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """Raises: ConfigError, without the value in it."""
    text = environ.get(config.headers_env or "", "")
    headers = dict(parse_env_headers(text, liberal=True))
    if text.strip() and not headers:
        raise ConfigError(
            "telemetry.headers_env", [f"the value of {config.headers_env} is not name=value,name=value ({OTEL_HINT})"]
        )
    return headers


OTEL_HINT = f"the format of {OTEL_EXPORTER_OTLP_HEADERS}"


def _exporters(config: TelemetryConfig, headers: dict[str, str]) -> Exporters:
    """Raises: ConfigError: the exporter is not installed."""
    if config.protocol == "grpc":
        return _grpc_exporters(config, headers)
    import requests  # noqa: PLC0415 - comes with the exporter
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415 - only for this protocol
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    def options(path: str) -> dict[str, Any]:
        session = requests.Session()
        session.trust_env = False  # a proxy of the environment, or a password of .netrc, is not meant for it
        endpoint = f"{config.endpoint.rstrip('/')}/v1/{path}"
        return {"endpoint": endpoint, "headers": headers, "timeout": config.timeout_s, "session": session,
                "compression": Compression.Gzip}  # fmt: skip

    return Exporters(
        OTLPSpanExporter(**options("traces")) if config.traces else None,
        OTLPMetricExporter(**options("metrics")) if config.metrics else None,
    )


def _grpc_exporters(config: TelemetryConfig, headers: dict[str, str]) -> Exporters:
    try:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigError("telemetry.protocol", ["grpc needs its exporter: pip install 'locum[otel-grpc]'"]) from exc
    options: dict[str, Any] = {
        "endpoint": config.endpoint, "insecure": config.endpoint.startswith("http:"),
        "headers": tuple((name.lower(), value) for name, value in headers.items()), "timeout": config.timeout_s,
    }  # fmt: skip
    return Exporters(
        OTLPSpanExporter(**options) if config.traces else None,
        OTLPMetricExporter(**options) if config.metrics else None,
    )
