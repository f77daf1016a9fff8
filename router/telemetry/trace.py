"""The trace of one request: a server span, and below it the policies, the admission, every call of a backend, reviews.

Spans of backends begin when the calls do, since their ids travel with them; all else is written when the request has
ended, from what its state and its record say. Nothing here holds a text.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from policies.record import DecisionRecord, Usage
from router.backends import Backend
from router.http_client import Headers
from router.resilience.attempts import Attempt
from router.telemetry import conventions as names
from router.telemetry.instruments import Attributes, Instruments

if TYPE_CHECKING:
    from router.outcome import RequestState

Value = str | int | float | bool | Sequence[str]
ABANDONED = "abandoned"
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


class Review(NamedTuple):
    """Monotonic times of a draft's judgement."""

    started_s: float
    ended_s: float


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


class RequestTrace:
    """Follows one request. It is told of attempts as `router.resilience.watcher.Watcher`."""

    def __init__(
        self,
        state: RequestState,
        span: Span | None,
        tracer: Tracer | None,
        instruments: Instruments | None,
        *,
        propagate: bool,
    ) -> None:
        """
        Args:
            span: of the server; None: nothing is traced.
        """
        self._state = state
        self._span = span
        self._tracer = tracer if span is not None and span.is_recording() else None
        self._instruments = instruments
        self._propagate = propagate
        self._context = set_span_in_context(span, Context()) if span is not None else None
        self._calls: dict[Attempt, Call] = {}
        self._reviews: list[Review] = []

    # While the request runs

    def began(self, attempt: Attempt) -> None:
        span = None
        if self._tracer is not None:
            config = attempt.backend.config
            span = self._tracer.start_span(
                f"{self._operation} {config.model}",
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

    def reviewed(self, started_s: float) -> None:
        """A draft has been judged."""
        self._reviews.append(Review(started_s, time.monotonic()))

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

    # When it has ended

    def end(self) -> None:
        """Write everything down."""
        now_s, record = time.monotonic(), self._state.record
        answer = self._answering_call()
        for call in self._calls.values():
            self._end_call(call, now_s, self._usage_of(call, answer), answer is call)
        if record is None:
            if self._span is not None:
                self._span.end()
            return
        if self._instruments is not None:
            self._instruments.request(
                self._request_attributes(record),
                duration_s=record.latency_s,
                ttft_s=record.ttft_s,
                tpot_s=record.tpot_s,
            )
        if self._span is not None and self._tracer is not None:
            self._end_phases(self._tracer, record)
            self._end_server_span(self._span, record)
        if self._span is not None:
            self._span.end(self._unix_ns(now_s))

    @property
    def _operation(self) -> str:
        return names.operation_of(self._state.dialect.path)

    def _unix_ns(self, monotonic_s: float) -> int:
        return int((self._state.created_s + monotonic_s - self._state.started_s) * 1e9)

    def _call_attributes(self, backend: Backend) -> Attributes:
        config = backend.config
        return {
            names.OPERATION: self._operation,
            names.PROVIDER: names.provider_of(config.base_url),
            names.REQUEST_MODEL: config.model,
            **names.address_of(config.base_url),
        }

    def _request_attributes(self, record: DecisionRecord) -> Attributes:
        attributes: Attributes = {names.OPERATION: self._operation, "locum.route": record.route or "none"}
        if self._state.backend is not None:
            attributes[names.PROVIDER] = names.provider_of(self._state.backend.config.base_url)
            attributes[names.REQUEST_MODEL] = self._state.backend.config.model
        if record.status >= 400:
            attributes[names.ERROR_TYPE] = record.error_code or str(record.status)
        return attributes

    def _answering_call(self) -> Call | None:
        """The last one that went well: the answer's."""
        backend = self._state.backend
        good = [call for call in self._calls.values() if call.cause is None and call.backend is backend]
        return good[-1] if good else None

    def _usage_of(self, call: Call, answer: Call | None) -> Usage | None:
        if call is answer:
            return self._state.usage
        draft = self._state.draft
        thrown_away = draft is not None and call.cause in (None, ABANDONED) and call.backend.route == "student"
        return draft.usage if draft is not None and thrown_away and call.answered_s is not None else None

    def _end_call(self, call: Call, now_s: float, usage: Usage | None, is_answer: bool) -> None:
        ended_s = call.ended_s if call.ended_s is not None else now_s
        streams = self._state.request is not None and self._state.request.stream
        first_chunk_s = call.answered_s - call.started_s if streams and call.answered_s is not None else None
        if self._instruments is not None:
            attributes = self._call_attributes(call.backend)
            self._instruments.call(
                attributes, duration_s=ended_s - call.started_s, first_chunk_s=first_chunk_s, cause=call.cause
            )
            if usage is not None:
                self._instruments.tokens(attributes, usage)
        if call.span is None:
            return
        call.span.set_attributes({names.REQUEST_STREAM: streams, "locum.route": call.backend.route, **_tokens(usage)})
        if first_chunk_s is not None:
            call.span.set_attribute(names.TIME_TO_FIRST_CHUNK, first_chunk_s)
        if call.cause is not None:
            call.span.set_attribute(names.ERROR_TYPE, call.cause)
            if call.cause != ABANDONED:
                call.span.set_status(Status(StatusCode.ERROR))
        if is_answer:
            if self._state.fingerprint:
                call.span.set_attribute(names.RESPONSE_MODEL, self._state.fingerprint.split(" ", 1)[0])
            if self._state.finish_reason:
                call.span.set_attribute(names.FINISH_REASONS, [self._state.finish_reason])
        call.span.end(self._unix_ns(ended_s))

    def _end_phases(self, tracer: Tracer, record: DecisionRecord) -> None:
        state = self._state
        if state.body_read_s is None or state.decided_s is None:
            return
        decision = record.decision
        span = tracer.start_span(
            "evaluate policies",
            self._context,
            attributes=_known({
                "locum.policy": decision.policy, "locum.reason": decision.reason, "locum.decided_route": decision.route,
                "locum.score": decision.score, "locum.threshold": decision.threshold,
            }),
            start_time=self._unix_ns(state.body_read_s),
        )  # fmt: skip
        for vote in record.votes:
            about = {"locum.policy": vote.policy, "locum.vote": vote.route or "abstain", "locum.reason": vote.reason}
            span.add_event("vote", _known({**about, "locum.score": vote.score}), self._unix_ns(state.decided_s))
        span.end(self._unix_ns(state.decided_s))
        admitted_s = min((call.started_s for call in self._calls.values()), default=None)
        if state.permit is not None and admitted_s is not None:
            span = tracer.start_span("admit", self._context, start_time=self._unix_ns(state.decided_s))
            span.end(self._unix_ns(admitted_s))
        for review in self._reviews:
            span = tracer.start_span("review draft", self._context, start_time=self._unix_ns(review.started_s))
            judged = record.draft.review if record.draft is not None else None
            if record.draft is not None:
                span.set_attribute("locum.escalated", record.draft.escalated)
            if judged is not None:
                span.set_attributes(_known({
                    "locum.policy": judged.policy, "locum.reason": judged.reason, "locum.score": judged.score,
                    "locum.threshold": judged.threshold,
                }))  # fmt: skip
            span.end(self._unix_ns(review.ended_s))

    def _end_server_span(self, span: Span, record: DecisionRecord) -> None:
        span.set_attributes(_known({
            names.HTTP_STATUS: record.status, names.OPERATION: self._operation,
            "locum.decision_id": record.decision_id, "locum.route": record.route, "locum.reason": record.reason,
            "locum.policy": self._state.policy, "locum.policy_version": record.decision.version,
            "locum.outcome": record.outcome, "locum.student": record.student, "locum.degraded": record.degraded,
            "locum.purpose": record.purpose, "locum.cost_usd": record.cost_usd, "locum.machine_usd": record.machine_usd,
            "locum.counterfactual_cost_usd": record.counterfactual_cost_usd, "locum.overhead_s": record.overhead_s,
        }))  # fmt: skip
        if record.usage is not None:
            span.set_attributes(_known({
                "locum.input_tokens": record.usage.prompt_tokens, "locum.output_tokens": record.usage.completion_tokens,
            }))  # fmt: skip
        if self._state.first_event_s is not None:
            span.add_event("first token", None, self._unix_ns(self._state.first_event_s))
        if record.status >= 400:
            span.set_attribute(names.ERROR_TYPE, record.error_code or str(record.status))
        if record.status >= 500 or record.outcome in ("backend_error", "timeout"):
            span.set_status(Status(StatusCode.ERROR))


def _known(attributes: dict[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in attributes.items() if value is not None}


def _tokens(usage: Usage | None) -> dict[str, Value]:
    if usage is None:
        return {}
    counts = {names.INPUT_TOKENS: usage.prompt_tokens, names.OUTPUT_TOKENS: usage.completion_tokens}
    parts = {
        names.CACHE_READ_TOKENS: usage.cached_tokens,
        names.CACHE_WRITE_TOKENS: usage.cache_write_tokens,
        names.REASONING_TOKENS: usage.reasoning_tokens,
    }
    return {**counts, **{name: count for name, count in parts.items() if count}}
