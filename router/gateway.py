"""The life of a request to a model, from the client's bytes to the last byte of the answer, in every dialect.

authenticate → admit → parse → decide → call a backend (fall back only before the first byte) → have a draft of the
student reviewed → pass the answer on → write the record → release the last byte. One `DecisionRecord` ends every
request, on every way out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import NamedTuple

from policies.base import RouteDecision
from policies.record import Outcome
from router.auth import Keyring
from router.backends import Backend
from router.chat import ChatRequest
from router.config import Config
from router.decision_ids import DecisionIds, with_level
from router.delivery import Delivery, answer_headers, stream_head
from router.dialects.base import Dialect
from router.errors import (
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
)
from router.exchange import ClientGone, Exchange, Receive, Scope, Send
from router.generations import Generation, Generations
from router.metrics import Metrics
from router.outcome import Outcomes, RequestState
from router.routing import FORCED_POLICY

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""Status in the record of a request whose client left; nobody receives it."""


DRAIN_S = 2.0


class Attempt(NamedTuple):
    """A backend to try, and what the answer says when it comes from there."""

    backend: Backend
    degraded: str | None = None


class Endpoint:
    """One dialect of the gateway, on raw ASGI."""

    def __init__(self, gateway: Gateway, dialect: Dialect) -> None:
        self.path = dialect.path
        self._gateway = gateway
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gateway.serve(Exchange(scope, receive, send), self._dialect)


class Gateway:
    """Serves requests. `endpoint` makes the ASGI endpoint of a dialect, and `router/app.py` wires it."""

    def __init__(
        self,
        config: Config,
        *,
        generations: Generations,
        teacher: Backend,
        keyring: Keyring,
        outcomes: Outcomes,
        metrics: Metrics,
    ) -> None:
        self._server = config.server
        self._generations = generations
        self._teacher = teacher
        self._keyring = keyring
        self._outcomes = outcomes
        self._metrics = metrics
        self._delivery = Delivery(config.server, teacher=teacher, outcomes=outcomes, metrics=metrics)
        self._ids = DecisionIds()
        self._inflight = 0

    def endpoint(self, dialect: Dialect) -> Endpoint:
        """The ASGI endpoint of a dialect."""
        return Endpoint(self, dialect)

    async def serve(self, exchange: Exchange, dialect: Dialect) -> None:
        """Serve one request, and end it in exactly one record whatever happens."""
        generation = self._generations.current
        state = RequestState(self._ids.next(), time.monotonic(), dialect=dialect, generation=generation)
        generation.enter()
        self._inflight += 1
        self._metrics.inflight.inc()
        try:
            async with asyncio.timeout(self._server.body_timeout_s) as limit:
                await self._serve(exchange, state, limit)
        except LocumError as error:
            await self._end_with(error, exchange, state)
        except TimeoutError:
            await self._end_with(_too_slow(state), exchange, state)
        except ClientGone:
            await self._end_without_client(state)
        except asyncio.CancelledError:
            if not exchange.client_gone:  # the server's drain time is over
                await self._end_with(ShuttingDown("The gateway is shutting down.", retry_after_s=1), exchange, state)
                return
            await self._end_without_client(state)
        except Exception:
            logger.exception("request %s failed inside the gateway", state.decision_id)
            await self._end_with(LocumError("Internal error; the gateway's log says more."), exchange, state)
        finally:
            exchange.stop_watching()
            await exchange.stop_heartbeats()
            generation.leave()
            self._inflight -= 1
            self._metrics.inflight.dec()

    async def drained(self) -> None:
        """Wait until every request has left its record; cancelled ones take a moment."""
        deadline_s = time.monotonic() + DRAIN_S
        while self._inflight and time.monotonic() < deadline_s:  # noqa: ASYNC110 - an event would cost every request
            await asyncio.sleep(0.01)

    async def _serve(self, exchange: Exchange, state: RequestState, limit: asyncio.Timeout) -> None:
        server, bounds = self._server, state.generation.document.server
        state.tenant = self._keyring.tenant_of(exchange.header(b"authorization"))
        if self._inflight > bounds.max_inflight_requests:
            raise Overloaded("The gateway is full; try again soon.", retry_after_s=bounds.retry_after_s)
        if exchange.header(b"content-encoding") not in (None, b"identity"):
            raise UnsupportedEncoding("Send the body uncompressed: content-encoding is not supported.")
        data = await exchange.read_body(limit_bytes=bounds.max_body_bytes)
        state.body_read_s = time.monotonic()
        state.deadline_s = asyncio.get_running_loop().time() + server.request_timeout_s
        limit.reschedule(state.deadline_s)
        exchange.watch()
        request = state.request = state.dialect.parse(data, exchange.headers)
        state.decision_id = with_level(state.decision_id, self._outcomes.capture_of(request))
        explain = request.directives.explain is True
        decider = state.generation.decider
        evaluation = await decider.decide(request, tenant=state.tenant, every_vote=explain)
        state.evaluation, state.reason = evaluation, evaluation.decision.reason
        await self._answer(exchange, state, request, evaluation.decision)

    async def _answer(
        self, exchange: Exchange, state: RequestState, request: ChatRequest, decision: RouteDecision
    ) -> None:
        """Try the backends in order; the first one that answers is committed to. Raises: LocumError."""
        if request.stream and self._server.heartbeat_interval_s is not None:
            exchange.begin_heartbeats(self._server.heartbeat_interval_s, lambda: stream_head(state))
        failure: BackendError | None = None
        attempts = self._attempts(decision, state.generation)
        for attempt in attempts:
            if failure is not None:
                self._metrics.fallbacks.labels(failure.cause).inc()
                state.fallback_cause, state.reason = failure.cause, f"fallback_{failure.cause}"
            state.route, state.degraded = attempt.backend.route, attempt.degraded
            try:
                await self._delivery.deliver(exchange, state, request, attempt.backend)
                return
            except BackendError as error:
                failure = error
                logger.info("%s: the %s failed: %s", state.decision_id, attempt.backend.route, error.cause)
        state.route = state.degraded = None
        assert failure is not None  # noqa: S101 - there is at least one attempt
        raise _unavailable(failure, decision, state.generation, only_one=len(attempts) == 1) from failure

    def _attempts(self, decision: RouteDecision, generation: Generation) -> list[Attempt]:
        """Who may answer, in order. The student stands in for the teacher only where that lowers declared quality:
        not when it cannot serve the request, and not when the client insists on the teacher."""
        student, teacher = Attempt(generation.student), Attempt(self._teacher)
        forced = decision.policy == FORCED_POLICY
        if decision.route == "student":
            may_fall_back = not forced or generation.document.routing.fall_back_when_student_forced
            return [student, teacher] if may_fall_back else [student]
        if forced or not decision.student_capable:
            return [teacher]
        return [teacher, Attempt(generation.student, degraded="teacher_unavailable")]

    async def _end_with(self, error: LocumError, exchange: Exchange, state: RequestState) -> None:
        """An error response, or in a stream that has begun an error event and the close.

        A client that does not read cannot hold the request: the last bytes have `DRAIN_S` to leave.
        """
        exchange.stop_watching()
        await exchange.stop_heartbeats()
        state.error_code = error.code
        state.outcome = _outcome_of(error)
        if not exchange.started:
            state.status = error.status
        await self._outcomes.settle(state, time.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._send_error(error, exchange, state)

    async def _send_error(self, error: LocumError, exchange: Exchange, state: RequestState) -> None:
        if exchange.started:
            if state.request and state.request.stream:
                await exchange.end(state.dialect.error_frame(error))
            return  # of a plain answer a part is missing: the server closes the connection
        headers = [*answer_headers(state), (b"content-type", b"application/json")]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % error.retry_after_s))
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await exchange.respond(error.status, headers, state.dialect.error_body(error))

    async def _end_without_client(self, state: RequestState) -> None:
        state.status, state.outcome = CLIENT_CLOSED_REQUEST, "client_disconnected"
        await self._outcomes.settle(state, time.monotonic())


def _unavailable(
    failure: BackendError, decision: RouteDecision, generation: Generation, *, only_one: bool
) -> LocumError:
    retry_after_s = failure.retry_after_s or generation.document.server.retry_after_s
    if failure.cause == "rate_limited" and only_one:
        return RateLimited(f"The {decision.route} is rate limited.", retry_after_s=retry_after_s)
    return NoRoute(f"No backend can answer this request now ({failure.cause}).", retry_after_s=retry_after_s)


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


def _too_slow(state: RequestState) -> LocumError:
    if state.body_read_s is None:
        late = InvalidRequest("The request body did not arrive within server.body_timeout_s.", code="body_timeout")
        late.status = 408
        return late
    return BackendTimeout("Not answered within server.request_timeout_s.", cause="timeout")
