"""One backend's answer on its way to the client: plain ones are checked and reviewed, streams peeked and relayed."""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache, partial

import msgspec

from router.additions import NOTHING
from router.backends import Answer, Backend
from router.cascade import Cascade
from router.chat import ChatRequest
from router.config.server import ServerConfig
from router.dialects.base import refusal_of
from router.errors import BackendBroken, BackendTimeout
from router.exchange import Exchange
from router.http_client import Headers
from router.metrics import Metrics
from router.outcome import Outcomes, RequestState
from router.plain import Reply, fetch
from router.streaming import Stream


class Delivery:
    """Delivers the answer of one backend, or raises `BackendError` with nothing of it sent."""

    def __init__(self, server: ServerConfig, *, teacher: Backend, outcomes: Outcomes, metrics: Metrics) -> None:
        """
        Args:
            teacher: who is asked where a draft of the student is rejected.
        """
        self._server = server
        self._teacher = teacher
        self._outcomes = outcomes
        self._metrics = metrics
        self._cascade = Cascade(metrics)

    async def deliver(self, exchange: Exchange, state: RequestState, request: ChatRequest, backend: Backend) -> None:
        """Ask and pass on. Raises: BackendError: another backend may do better."""
        if request.stream:
            await self._stream(exchange, state, request, backend)
        else:
            await self._plain(exchange, state, request, backend)

    async def _plain(self, exchange: Exchange, state: RequestState, request: ChatRequest, backend: Backend) -> None:
        """An answer in one piece, checked and reviewed before it is passed on. Raises: BackendError."""
        reply = await self._fetch(exchange, state, request, backend)
        if reply.meaning is not None and self._cascade.reviews(state, backend):
            ask_teacher = partial(self._fetch, exchange, state, request, self._teacher)
            reply = await self._cascade.better_of(state, reply, ask_teacher)
        if reply.meaning is None:
            await self._pass_on_refusal(exchange, state, reply.answer, reply.body)
            return
        state.note(reply.meaning)
        state.status, state.outcome = reply.answer.status, "degraded" if state.degraded else "ok"
        await self._outcomes.settle(state, time.monotonic())
        await exchange.respond(reply.answer.status, answer_headers(state, reply.answer), reply.body)

    async def _fetch(self, exchange: Exchange, state: RequestState, request: ChatRequest, backend: Backend) -> Reply:
        """A plain answer, with what we want beside it asked for and cut out again. Raises: BackendError."""
        added = NOTHING
        wanted = state.generation.wanted if backend.route == "student" else backend.wanted
        if wanted != NOTHING:
            added = request.additions(wanted, keeps_text=self._outcomes.captures_text(request))
        state.note_call()
        limit_bytes = self._server.max_response_bytes
        detailed = wanted != NOTHING
        return await fetch(backend, request, exchange.headers, added, detailed=detailed, limit_bytes=limit_bytes)

    async def _stream(self, exchange: Exchange, state: RequestState, request: ChatRequest, backend: Backend) -> None:
        """A stream, committed to at its first event. Raises: BackendError before that, and only before."""
        limit_s = backend.config.first_token_timeout_s
        asked = request.outgoing(backend.config)
        state.note_call()
        try:
            async with (
                asyncio.timeout(limit_s) as limit,
                backend.call(asked.api.path, asked.body, exchange.headers) as answer,
            ):
                if answer.status >= 400:
                    body = await answer.body(self._server.max_response_bytes)
                    limit.reschedule(None)
                    await self._pass_on_refusal(exchange, state, answer, body)
                    return
                if not answer.is_event_stream:
                    raise BackendBroken("the answer is not an event stream", cause="invalid_response")
                keeps_text = self._outcomes.captures_text(request)
                stream = Stream(backend, answer, asked, state.dialect, choices=request.choices, capture=keeps_text)
                await stream.peek()
                limit.reschedule(None)
                state.status = answer.status
                try:
                    headers = [*answer_headers(state, answer), (b"cache-control", b"no-cache")]
                    await exchange.start(answer.status, headers)
                    await stream.relay(
                        exchange, state, self._metrics, lambda: self._outcomes.settle(state, time.monotonic())
                    )
                finally:
                    stream.record_text(state)
        except TimeoutError as exc:
            raise BackendTimeout(f"no event within {limit_s:g} s", cause="timeout") from exc

    async def _pass_on_refusal(self, exchange: Exchange, state: RequestState, answer: Answer, body: bytes) -> None:
        """A 4xx that is the client's own affair goes to the client, as the backend wrote it where that can be."""
        state.status, state.outcome, state.error_code = answer.status, "client_error", "refused_by_backend"
        await self._outcomes.settle(state, time.monotonic())
        await exchange.stop_heartbeats()
        if exchange.started:
            await exchange.end(state.dialect.error_frame(refusal_of(answer.status, body)))
            return
        headers = answer_headers(state, answer)
        if not state.dialect.passes_refusals:
            body = state.dialect.error_body(refusal_of(answer.status, body))
        await exchange.respond(answer.status, headers, body)


def answer_headers(state: RequestState, answer: Answer | None = None) -> Headers:
    """The `x-router-*` headers of every response, and what of the backend's headers is passed on."""
    generation, evaluation = state.generation, state.evaluation
    headers = [
        (b"x-router-route", _header_name(state.route or "none")),
        (b"x-router-reason", _header_name(state.reason)),
        (b"x-router-decision-id", state.decision_id.encode()),
        (b"x-router-policy", _header_name(state.policy)),
        (b"x-router-policy-version", _header_name(generation.decider.version)),
        (b"x-router-student", _header_name(generation.bundle_id)),
    ]
    if state.degraded is not None:
        headers.append((b"x-router-degraded", state.degraded.encode()))
    if evaluation and state.request and state.request.directives.explain:
        explained = {"decision": evaluation.decision, "votes": evaluation.votes}
        if state.draft is not None:
            explained["review"] = state.draft.review
        headers.append((b"x-router-explain", _header_text(msgspec.json.encode(explained).decode())))
    if answer is not None:
        headers += answer.headers
        headers.append((b"content-type", answer.content_type))
    return headers


def stream_head(state: RequestState) -> Headers:
    """The head of a stream whose answer has not begun: who will answer is not known yet."""
    headers = [header for header in answer_headers(state) if header[0] != b"x-router-route"]
    more = [(b"x-router-route", b"pending"), (b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    return headers + more


@lru_cache(maxsize=1024)
def _header_name(text: str) -> bytes:
    """`_header_text` for the closed sets of routes, reasons and policies."""
    return _header_text(text)


def _header_text(text: str) -> bytes:
    """Names come from plug-ins and configuration: nothing but printable ASCII gets into a header."""
    return bytes(byte if 32 <= byte < 127 else 63 for byte in text.encode("ascii", "replace"))
