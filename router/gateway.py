"""The life of a request: `POST /v1/chat/completions`, from the client's bytes to the last byte of the answer.

authenticate → admit → parse → decide → call a backend (fall back only before the first byte) → pass the answer on
→ write the record → release the last byte. One `DecisionRecord` ends every request, on every way out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import msgspec

from policies.base import RouteDecision
from policies.record import Outcome
from router.answers import meaning_of
from router.auth import Keyring
from router.backends import Answer, Backend, Call
from router.chat import ChatRequest
from router.config import Config
from router.errors import (
    BackendBroken,
    BackendError,
    BackendTimeout,
    InvalidRequest,
    LocumError,
    NoRoute,
    Overloaded,
    RateLimited,
    ShuttingDown,
    Unauthorized,
    UnsupportedEncoding,
    error_body,
    error_frame,
)
from router.exchange import ClientGone, Exchange, Receive, Scope, Send
from router.http_client import Headers
from router.metrics import Metrics
from router.outcome import DecisionIds, Draft, Outcomes
from router.routing import FORCED_POLICY, Decider
from router.streaming import ChatStream

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""Status in the record of a request whose client left; nobody receives it."""


DRAIN_S = 2.0


class Attempt(NamedTuple):
    """A backend to try, and what the answer says when it comes from there."""

    backend: Backend
    degraded: str | None = None


class Gateway:
    """The ASGI endpoint for chat completions. `router/app.py` wires it."""

    def __init__(
        self,
        config: Config,
        *,
        student: Backend,
        teacher: Backend,
        decider: Decider,
        keyring: Keyring,
        outcomes: Outcomes,
        metrics: Metrics,
    ) -> None:
        self._server = config.server
        self._student_may_fall_back_when_forced = config.routing.fall_back_when_student_forced
        self._student = student
        self._teacher = teacher
        self._decider = decider
        self._keyring = keyring
        self._outcomes = outcomes
        self._metrics = metrics
        self._ids = DecisionIds()
        self._inflight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and end it in exactly one record whatever happens."""
        exchange = Exchange(scope, receive, send)
        draft = Draft(self._ids.next(), time.monotonic(), endpoint=exchange.path)
        self._inflight += 1
        self._metrics.inflight.inc()
        try:
            async with asyncio.timeout(self._server.body_timeout_s) as limit:
                await self._serve(exchange, draft, limit)
        except LocumError as error:
            await self._end_with(error, exchange, draft)
        except TimeoutError:
            await self._end_with(_too_slow(draft), exchange, draft)
        except ClientGone:
            await self._end_without_client(draft)
        except asyncio.CancelledError:
            if not exchange.client_gone:  # the server's drain time is over
                await self._end_with(ShuttingDown("The gateway is shutting down.", retry_after_s=1), exchange, draft)
                return
            await self._end_without_client(draft)
        except Exception:
            logger.exception("request %s failed inside the gateway", draft.decision_id)
            await self._end_with(LocumError("Internal error; the gateway's log says more."), exchange, draft)
        finally:
            exchange.stop_watching()
            self._inflight -= 1
            self._metrics.inflight.dec()

    async def drained(self) -> None:
        """Wait until every request has left its record; cancelled ones take a moment."""
        deadline_s = time.monotonic() + DRAIN_S
        while self._inflight and time.monotonic() < deadline_s:  # noqa: ASYNC110 - an event would cost every request
            await asyncio.sleep(0.01)

    async def _serve(self, exchange: Exchange, draft: Draft, limit: asyncio.Timeout) -> None:
        server = self._server
        draft.tenant = self._keyring.tenant_of(exchange.header(b"authorization"))
        if self._inflight > server.max_inflight_requests:
            raise Overloaded("The gateway is full; try again soon.", retry_after_s=server.retry_after_s)
        if exchange.header(b"content-encoding") not in (None, b"identity"):
            raise UnsupportedEncoding("Send the body uncompressed: content-encoding is not supported.")
        data = await exchange.read_body(limit_bytes=server.max_body_bytes)
        draft.body_read_s = time.monotonic()
        limit.reschedule(asyncio.get_running_loop().time() + server.request_timeout_s)
        exchange.watch()
        request = draft.request = ChatRequest.parse(data, exchange.headers)
        explain = request.directives.explain is True
        evaluation = await self._decider.decide(request, tenant=draft.tenant, every_vote=explain)
        draft.evaluation, draft.reason = evaluation, evaluation.decision.reason
        await self._answer(exchange, draft, request, evaluation.decision)

    async def _answer(self, exchange: Exchange, draft: Draft, request: ChatRequest, decision: RouteDecision) -> None:
        """Try the backends in order; the first one that answers is committed to. Raises: LocumError."""
        deliver = self._stream if request.stream else self._plain
        failure: BackendError | None = None
        for attempt in self._attempts(decision):
            if failure is not None:
                self._metrics.fallbacks.labels(failure.cause).inc()
                draft.fallback_cause, draft.reason = failure.cause, f"fallback_{failure.cause}"
            draft.route, draft.degraded = attempt.backend.route, attempt.degraded
            try:
                await deliver(exchange, draft, request, attempt.backend)
                return
            except BackendError as error:
                failure = error
                logger.info("%s: the %s failed: %s", draft.decision_id, attempt.backend.route, error.cause)
        draft.route = draft.degraded = None
        assert failure is not None  # noqa: S101 - there is at least one attempt
        raise self._unavailable(failure, decision) from failure

    def _attempts(self, decision: RouteDecision) -> list[Attempt]:
        """Who may answer, in order. The student stands in for the teacher only where that lowers declared quality:
        not when it cannot serve the request, and not when the client insists on the teacher."""
        student, teacher = Attempt(self._student), Attempt(self._teacher)
        forced = decision.policy == FORCED_POLICY
        if decision.route == "student":
            return [student, teacher] if not forced or self._student_may_fall_back_when_forced else [student]
        if forced or not decision.student_capable:
            return [teacher]
        return [teacher, Attempt(self._student, degraded="teacher_unavailable")]

    def _unavailable(self, failure: BackendError, decision: RouteDecision) -> LocumError:
        retry_after_s = failure.retry_after_s or self._server.retry_after_s
        if failure.cause == "rate_limited" and len(self._attempts(decision)) == 1:
            return RateLimited(f"The {decision.route} is rate limited.", retry_after_s=retry_after_s)
        return NoRoute(f"No backend can answer this request now ({failure.cause}).", retry_after_s=retry_after_s)

    async def _plain(self, exchange: Exchange, draft: Draft, request: ChatRequest, backend: Backend) -> None:
        """An answer in one piece, checked before it is passed on. Raises: BackendError."""
        limit_s = backend.config.request_timeout_s
        try:
            async with asyncio.timeout(limit_s), self._call(exchange, draft, request, backend) as answer:
                body = await answer.body(self._server.max_response_bytes)
        except TimeoutError as exc:
            raise BackendTimeout(f"no answer within {limit_s:g} s", cause="timeout") from exc
        if answer.status >= 400:
            await self._pass_on_refusal(exchange, draft, answer, body)
            return
        meaning = meaning_of(body)
        if meaning is None:
            raise BackendBroken("the answer is not a chat completion", cause="invalid_response")
        draft.usage, draft.finish_reason = meaning.usage, meaning.finish_reason
        draft.completion = meaning.text
        draft.status, draft.outcome = answer.status, "degraded" if draft.degraded else "ok"
        await self._outcomes.settle(draft, time.monotonic())
        await exchange.respond(answer.status, self._headers(draft, answer), body)

    async def _stream(self, exchange: Exchange, draft: Draft, request: ChatRequest, backend: Backend) -> None:
        """A stream, committed to at its first event. Raises: BackendError before that, and only before."""
        limit_s = backend.config.first_token_timeout_s
        try:
            async with asyncio.timeout(limit_s) as limit, self._call(exchange, draft, request, backend) as answer:
                if answer.status >= 400:
                    body = await answer.body(self._server.max_response_bytes)
                    limit.reschedule(None)
                    await self._pass_on_refusal(exchange, draft, answer, body)
                    return
                if not answer.is_event_stream:
                    raise BackendBroken("the answer is not an event stream", cause="invalid_response")
                stream = ChatStream(
                    backend,
                    answer,
                    choices=request.choices,
                    hide_usage=not request.wants_usage,
                    capture=self._outcomes.captures_text(request),
                )
                await stream.peek()
                limit.reschedule(None)
                draft.status = answer.status
                try:
                    headers = [*self._headers(draft, answer), (b"cache-control", b"no-cache")]
                    await exchange.start(answer.status, headers)
                    await stream.relay(
                        exchange, draft, self._metrics, lambda: self._outcomes.settle(draft, time.monotonic())
                    )
                finally:
                    stream.record_text(draft)
        except TimeoutError as exc:
            raise BackendTimeout(f"no event within {limit_s:g} s", cause="timeout") from exc

    def _call(self, exchange: Exchange, draft: Draft, request: ChatRequest, backend: Backend) -> Call:
        body = request.forwarded(backend.config.model)
        if draft.called_s is None:
            draft.called_s = time.monotonic()
        return backend.call(body, exchange.headers)

    async def _pass_on_refusal(self, exchange: Exchange, draft: Draft, answer: Answer, body: bytes) -> None:
        """A 4xx that is the client's own affair goes to the client as the backend wrote it."""
        draft.status, draft.outcome, draft.error_code = answer.status, "client_error", "refused_by_backend"
        await self._outcomes.settle(draft, time.monotonic())
        await exchange.respond(answer.status, self._headers(draft, answer), body)

    async def _end_with(self, error: LocumError, exchange: Exchange, draft: Draft) -> None:
        """An error response, or in a stream that has begun an error event and the close.

        A client that does not read cannot hold the request: the last bytes have `DRAIN_S` to leave.
        """
        exchange.stop_watching()
        draft.error_code = error.code
        draft.outcome = _outcome_of(error)
        if not exchange.started:
            draft.status = error.status
        await self._outcomes.settle(draft, time.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._send_error(error, exchange, draft)

    async def _send_error(self, error: LocumError, exchange: Exchange, draft: Draft) -> None:
        if exchange.started:
            if draft.request and draft.request.stream:
                await exchange.end(error_frame(error))
            return  # of a plain answer a part is missing: the server closes the connection
        headers = [*self._headers(draft), (b"content-type", b"application/json")]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % error.retry_after_s))
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await exchange.respond(error.status, headers, error_body(error))

    async def _end_without_client(self, draft: Draft) -> None:
        draft.status, draft.outcome = CLIENT_CLOSED_REQUEST, "client_disconnected"
        await self._outcomes.settle(draft, time.monotonic())

    def _headers(self, draft: Draft, answer: Answer | None = None) -> Headers:
        """The `x-router-*` headers of every response, and what of the backend's headers is passed on."""
        decision = draft.evaluation.decision if draft.evaluation else None
        headers = [
            (b"x-router-route", _header_name(draft.route or "none")),
            (b"x-router-reason", _header_name(draft.reason)),
            (b"x-router-decision-id", draft.decision_id.encode()),
            (b"x-router-policy", _header_name(decision.policy if decision else FORCED_POLICY)),
            (b"x-router-policy-version", _header_name(self._decider.version)),
            (b"x-router-student", _header_name(self._student.config.model)),
        ]
        if draft.degraded is not None:
            headers.append((b"x-router-degraded", draft.degraded.encode()))
        if draft.evaluation and draft.request and draft.request.directives.explain:
            explained = {"decision": draft.evaluation.decision, "votes": draft.evaluation.votes}
            headers.append((b"x-router-explain", _header_text(msgspec.json.encode(explained).decode())))
        if answer is not None:
            headers += answer.headers
            headers.append((b"content-type", answer.content_type))
        return headers


def _outcome_of(error: LocumError) -> Outcome:
    match error:
        case BackendTimeout():
            return "timeout"
        case InvalidRequest():
            return "client_error"
        case Overloaded() | ShuttingDown() | Unauthorized():
            return "rejected"
        case _:
            return "backend_error"


def _too_slow(draft: Draft) -> LocumError:
    if draft.body_read_s is None:
        late = InvalidRequest("The request body did not arrive within server.body_timeout_s.", code="body_timeout")
        late.status = 408
        return late
    return BackendTimeout("Not answered within server.request_timeout_s.", cause="timeout")


@lru_cache(maxsize=1024)
def _header_name(text: str) -> bytes:
    """`_header_text` for the closed sets of routes, reasons and policies."""
    return _header_text(text)


def _header_text(text: str) -> bytes:
    """Names come from plug-ins and configuration: nothing but printable ASCII gets into a header."""
    return bytes(byte if 32 <= byte < 127 else 63 for byte in text.encode("ascii", "replace"))
