"""What every trace has: a server span, below it one span for each call of a backend, and the metrics of both.

Spans of backends begin when the calls do, since their ids travel with them; all else is written when the request has
ended. Nothing here holds a text.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from policies.record import DecisionRecord, Usage
from router.backends import Backend
from router.config import BackendConfig
from router.http_client import Headers
from router.resilience.attempts import Attempt
from router.telemetry import conventions as names
from router.telemetry.instruments import Attributes, Instruments

Value = str | int | float | bool | Sequence[str]
ABANDONED = "abandoned"
NOTHING: Mapping[str, Any] = MappingProxyType({})
_CONTEXT_HEADERS = frozenset({b"traceparent", b"tracestate"})
_propagator = TraceContextTextMapPropagator()


def incoming_context(headers: Headers) -> Context:
    """The client's, to be continued; an empty one where it sent none or an invalid one."""
    carrier: dict[str, str] = {}
    for name, value in headers:
        if name in _CONTEXT_HEADERS:
            key, text = name.decode(), value.decode("latin-1")
            carrier[key] = f"{carrier[key]},{text}" if key in carrier else text
    return _propagator.extract(carrier, Context()) if carrier else Context()


class Begun(NamedTuple):
    """What telemetry gives to the trace of a request that has just arrived."""

    span: Span | None
    """Of the server; None: nothing is traced."""
    tracer: Tracer | None
    instruments: Instruments | None
    propagate: bool
    """Whether backends get the context of their calls."""


class Call:
    """One call of a backend."""

    __slots__ = ("answered_s", "backend", "cause", "ended_s", "forwarded", "span", "started_s")

    def __init__(self, backend: Backend, span: Span | None) -> None:
        self.backend = backend
        self.span = span
        self.started_s = time.monotonic()
        self.answered_s: float | None = None
        self.ended_s: float | None = None
        self.cause: str | None = None
        self.forwarded = False
        """Whether its context has gone to the backend."""


class Trace:
    """Follows one request. It is told of attempts as `router.resilience.watcher.Watcher`."""

    def __init__(self, begun: Begun, path: str, *, created_s: float, started_s: float) -> None:
        """
        Args:
            created_s: Unix time of `started_s`, which is monotonic.
        """
        span = begun.span
        self._span = span
        self._tracer = begun.tracer if span is not None and span.is_recording() else None
        self._instruments = begun.instruments
        self._propagate = begun.propagate
        self._operation = names.operation_of(path)
        self._offset_s = created_s - started_s
        self._context = set_span_in_context(span, Context()) if span is not None else None
        self._calls: dict[Attempt, Call] = {}

    def began(self, attempt: Attempt) -> None:
        span = None
        if self._tracer is not None:
            span = self._tracer.start_span(
                f"{self._operation} {attempt.backend.config.model}",
                self._context,
                SpanKind.CLIENT,
                {**self._call_attributes(attempt.backend), "locum.attempt": len(self._calls) + 1},
            )
        self._calls[attempt] = Call(attempt.backend, span)

    def answered(self, attempt: Attempt) -> None:
        self._calls[attempt].answered_s = time.monotonic()

    def ended(self, attempt: Attempt, cause: str | None) -> None:
        call = self._calls[attempt]
        call.ended_s, call.cause = time.monotonic(), cause

    def forwarded(self, headers: Headers, backend: Backend) -> Headers:
        """A client's headers with the context of the call that is about to be made in the place of its own."""
        if self._span is None:
            return headers
        own = [header for header in headers if header[0] not in _CONTEXT_HEADERS]
        if not self._propagate:
            return own
        call = next((c for c in self._calls.values() if c.backend is backend and not c.forwarded), None)
        span = self._span
        if call is not None:
            call.forwarded = True
            span = call.span or span
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, set_span_in_context(span, Context()))
        return own + [(key.encode(), value.encode("latin-1")) for key, value in carrier.items()]

    def _unix_ns(self, monotonic_s: float) -> int:
        return int((self._offset_s + monotonic_s) * 1e9)

    def _call_attributes(self, backend: Backend) -> Attributes:
        config = backend.config
        return {
            names.OPERATION: self._operation,
            names.PROVIDER: names.provider_of(config.base_url),
            names.REQUEST_MODEL: config.model,
            **names.address_of(config.base_url),
        }

    def _note_tokens(self, attributes: Attributes, usage: Usage | None) -> dict[str, Value]:
        """Into the metrics, and as attributes of a span."""
        if usage is None:
            return {}
        counts = {names.INPUT_TOKENS: usage.prompt_tokens}
        if self._operation != names.EMBEDDINGS:
            counts[names.OUTPUT_TOKENS] = usage.completion_tokens
        if self._instruments is not None:
            self._instruments.tokens(attributes, counts)
        parts = {
            names.CACHE_READ_TOKENS: usage.cached_tokens,
            names.CACHE_WRITE_TOKENS: usage.cache_write_tokens,
            names.REASONING_TOKENS: usage.reasoning_tokens,
        }
        return {**counts, **{name: count for name, count in parts.items() if count}}

    def _end_call(
        self,
        call: Call,
        now_s: float,
        usage: Usage | None,
        more: Mapping[str, Value | None],
        *,
        first_chunk_s: float | None = None,
    ) -> None:
        """
        Args:
            more: attributes of its span; None: there is none of that name.
            first_chunk_s: of a stream, since the call began.
        """
        ended_s = call.ended_s if call.ended_s is not None else now_s
        attributes = self._call_attributes(call.backend)
        if self._instruments is not None:
            self._instruments.call(
                attributes, duration_s=ended_s - call.started_s, first_chunk_s=first_chunk_s, cause=call.cause
            )
        tokens = self._note_tokens(attributes, usage)
        if call.span is None:
            return
        call.span.set_attributes(_known({**more, **tokens, names.TIME_TO_FIRST_CHUNK: first_chunk_s}))
        if call.cause is not None:
            call.span.set_attribute(names.ERROR_TYPE, call.cause)
            if call.cause != ABANDONED:
                call.span.set_status(Status(StatusCode.ERROR))
        call.span.end(self._unix_ns(ended_s))

    def _phase(
        self,
        name: str,
        started_s: float,
        ended_s: float,
        attributes: Mapping[str, Value | None] = NOTHING,
        events: Mapping[str, Sequence[Mapping[str, Value | None]]] = NOTHING,
    ) -> None:
        """An internal span.

        Args:
            events: attributes of each event at its end, by the events' name.
        """
        if self._tracer is None:
            return
        span = self._tracer.start_span(
            name, self._context, attributes=_known(attributes), start_time=self._unix_ns(started_s)
        )
        for event, each in ((event, each) for event, several in events.items() for each in several):
            span.add_event(event, _known(each), self._unix_ns(ended_s))
        span.end(self._unix_ns(ended_s))

    def _end(
        self, record: DecisionRecord | None, now_s: float, backend: BackendConfig | None, policy: str | None = None
    ) -> None:
        """The end of the server span, and the metrics of the request.

        Args:
            record: None: the request left none.
            backend: that answered.
        """
        if record is not None and self._instruments is not None:
            attributes: Attributes = {names.OPERATION: self._operation, "locum.route": record.route or "none"}
            if backend is not None:
                attributes[names.PROVIDER] = names.provider_of(backend.base_url)
                attributes[names.REQUEST_MODEL] = backend.model
            if record.status >= 400:
                attributes[names.ERROR_TYPE] = record.error_code or str(record.status)
            self._instruments.request(
                attributes, duration_s=record.latency_s, ttft_s=record.ttft_s, tpot_s=record.tpot_s
            )
        if self._span is None:
            return
        if record is not None and self._tracer is not None:
            self._describe(self._span, record, policy)
        self._span.end(self._unix_ns(now_s))

    def _describe(self, span: Span, record: DecisionRecord, policy: str | None) -> None:
        usage = record.usage
        span.set_attributes(_known({
            names.HTTP_STATUS: record.status, names.OPERATION: self._operation,
            "locum.decision_id": record.decision_id, "locum.route": record.route, "locum.reason": record.reason,
            "locum.policy": policy, "locum.policy_version": record.decision.version,
            "locum.outcome": record.outcome, "locum.student": record.student, "locum.degraded": record.degraded,
            "locum.purpose": record.purpose, "locum.cost_usd": record.cost_usd, "locum.machine_usd": record.machine_usd,
            "locum.counterfactual_cost_usd": record.counterfactual_cost_usd, "locum.overhead_s": record.overhead_s,
            "locum.input_tokens": usage.prompt_tokens if usage is not None else None,
            "locum.output_tokens": usage.completion_tokens if usage is not None else None,
        }))  # fmt: skip
        if record.status >= 400:
            span.set_attribute(names.ERROR_TYPE, record.error_code or str(record.status))
        if record.status >= 500 or record.outcome in ("backend_error", "timeout"):
            span.set_status(Status(StatusCode.ERROR))


def _known(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in attributes.items() if value is not None}
