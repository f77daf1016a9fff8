"""The life of a request to a model, from the client's bytes to the last byte of the answer, in every dialect.

authenticate → parse → decide → admit → call a backend (fall back only before the first byte) → have a draft of the
student reviewed → pass the answer on → write the record → release the last byte. One `DecisionRecord` ends every
request, on every way out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from policies.chain import Evaluation
from policies.record import Usage
from router.admission import Admission, Permit
from router.answer_headers import answer_headers, stream_head
from router.chat import ChatRequest
from router.config import Config
from router.decision_ids import DecisionIds, with_level
from router.delivery import Delivery
from router.dialects.base import Dialect
from router.endings import CLIENT_CLOSED_REQUEST, error_headers, error_of, outcome_of, unavailable
from router.errors import BackendError, BudgetSpent, LocumError, Overloaded, UnsupportedEncoding
from router.exchange import Exchange
from router.generations import Generation, Generations
from router.logs import belong_to
from router.metrics import Metrics
from router.outcome import Outcomes
from router.pricing import expected_usage
from router.request_state import RequestState
from router.resilience.attempts import Attempts
from router.resilience.deadline import Deadline
from router.resilience.routes import Routes
from router.response_cache import ResponseCache
from router.routing import FORCED_POLICY
from router.time_limit import TimeLimit

if TYPE_CHECKING:
    from router.telemetry.exporting import Telemetry

logger = logging.getLogger(__name__)

UNCOUNTED = Usage(prompt_tokens=0, completion_tokens=0)
"""What is expected of the requests of a tenant without limits."""
DRAIN_S = 2.0


class Endpoint:
    """One dialect of the gateway."""

    def __init__(self, gateway: Gateway, dialect: Dialect) -> None:
        self.path = dialect.path
        self._gateway = gateway
        self._dialect = dialect

    def serve(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """One request and its response."""
        return self._gateway.serve(exchange, self._dialect)  # no coroutine of its own: each frame would pass it


class Gateway:
    """Serves requests. `endpoint` makes the endpoint of a dialect, and `router/app.py` wires it."""

    def __init__(
        self,
        config: Config,
        *,
        generations: Generations,
        routes: Routes,
        admission: Admission,
        outcomes: Outcomes,
        metrics: Metrics,
        cache: ResponseCache | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry
        self._server = config.server
        self._generations = generations
        self._routes = routes
        self._admission = admission
        self._outcomes = outcomes
        self._metrics = metrics
        self._delivery = Delivery(config.server, routes=routes, outcomes=outcomes, metrics=metrics, cache=cache)
        self._ids = DecisionIds()
        self._inflight = 0

    def endpoint(self, dialect: Dialect) -> Endpoint:
        """The endpoint of a dialect."""
        return Endpoint(self, dialect)

    async def serve(self, exchange: Exchange, dialect: Dialect) -> None:
        """Serve one request, and end it in exactly one record whatever happens."""
        generation = self._generations.current
        state = self._new_state(exchange, dialect, generation)
        generation.enter()
        self._inflight += 1
        self._metrics.add_inflight(1)
        try:
            with TimeLimit(self._server.body_timeout_s) as limit:
                await self._serve(exchange, state, limit)
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - each becomes the request's end
            error = error_of(raised, state, client_gone=exchange.client_gone)
            if error is None:
                await self._end_without_client(state)
            else:
                await self._end_with(error, exchange, state)
        finally:
            exchange.stop_watching()
            if exchange.has_heartbeats:
                await exchange.stop_heartbeats()
            if state.permit is not None and state.permit.is_open:  # else settled with the record
                await state.permit.settle(tokens=None, cost_usd=None)
            if state.trace is not None:
                state.trace.end()
            generation.leave()
            self._inflight -= 1
            self._metrics.add_inflight(-1)

    def _new_state(self, exchange: Exchange, dialect: Dialect, generation: Generation) -> RequestState:
        state = RequestState(self._ids.next(), time.monotonic(), dialect=dialect, generation=generation)
        belong_to(state)
        if generation.student.metered:
            state.measure_machine()
        if self._telemetry is not None:
            self._telemetry.begin(state, exchange.headers)
        return state

    async def drained(self) -> None:
        """Wait until every request has left its record; cancelled ones take a moment."""
        deadline_s = time.monotonic() + DRAIN_S
        while self._inflight and time.monotonic() < deadline_s:  # noqa: ASYNC110 - an event would cost every request
            await asyncio.sleep(0.01)

    async def _serve(self, exchange: Exchange, state: RequestState, limit: TimeLimit) -> None:
        server, bounds = self._server, state.generation.document.server
        tenant = state.tenant = self._admission.authenticate(exchange.headers)
        if self._inflight > bounds.max_inflight_requests + server.max_queued_requests:
            raise Overloaded("The gateway is full; try again soon.", retry_after_s=bounds.retry_after_s)
        if exchange.header(b"content-encoding") not in (None, b"identity"):
            raise UnsupportedEncoding("Send the body uncompressed: content-encoding is not supported.")
        data = await exchange.read_body(limit_bytes=bounds.max_body_bytes)
        state.body_read_s = time.monotonic()
        state.deadline = Deadline(asyncio.get_running_loop().time() + server.request_timeout_s)
        limit.move_to(state.deadline.at_s)
        exchange.watch()
        request = state.request = state.dialect.parse(data, exchange.headers)
        tenant.check_model(request.model)
        request.belong_to(tenant)
        state.decision_id = with_level(state.decision_id, self._outcomes.capture_of(request))
        explain = request.directives.explain is True
        decider = state.generation.decider
        evaluation = await decider.decide(
            request,
            tenant=tenant.name,
            every_vote=explain,
            decision_id=state.decision_id,
            both_models=len(tenant.routes) == 2,
        )
        state.evaluation, state.reason = evaluation, evaluation.decision.reason
        if decider.chain.shadows is not None and not explain and evaluation.decision.policy != FORCED_POLICY:
            state.shadow_votes = asyncio.create_task(decider.ask_shadows(request, evaluation))
        state.decided_s = time.monotonic()
        permit, without_teacher = await self._admit(state, request, evaluation)
        decision = permit.restricted(evaluation.decision)
        if self._delivery.caches and await self._delivery.deliver_cached(exchange, state, request, decision.route):
            return
        generation = state.generation
        attempts = self._routes.attempts(
            decision,
            generation.student,
            request,
            state.deadline,
            teacher_may_stand_in=generation.document.routing.fall_back_when_student_forced,
            without_teacher=without_teacher,
            watchers=state.watchers,
        )
        await self._answer(exchange, state, request, attempts)

    async def _admit(
        self, state: RequestState, request: ChatRequest, evaluation: Evaluation
    ) -> tuple[Permit, str | None]:
        """Let the request in, and keep its permit in `state`.

        Returns:
            The permit, and why no teacher may answer; None: one may.
        Raises:
            RateLimited, BudgetSpent, Overloaded, StateUnavailable.
        """
        assert state.tenant is not None and state.deadline is not None  # noqa: S101 - see `_serve`
        self._admission.line.max_inflight = state.generation.document.server.max_inflight_requests
        at_once = state.permit = self._admission.admit_at_once(state.tenant, holder=state.decision_id)
        if at_once is not None:
            return at_once, None if at_once.teacher_allowed else at_once.degraded
        generation, route, spills, expected = state.generation, evaluation.decision.route, False, UNCOUNTED
        if not state.tenant.unlimited:
            expected = expected_usage(evaluation.features, request.choices)
            spills = self._routes.overflow(evaluation.decision, generation.student) is not None
        admit = partial(
            self._admission.admit,
            state.tenant,
            holder=state.decision_id,
            estimated_tokens=expected.prompt_tokens + expected.completion_tokens,
            deadline_s=state.deadline.at_s,
        )
        price_usd = partial(self._routes.price_usd, expected, generation.student)
        try:
            permit = state.permit = await admit(estimated_cost_usd=price_usd("teacher" if spills else route))
        except BudgetSpent:
            if not spills:
                raise
            # The student is full, but what is left of the budget is not enough for the teacher.
            permit = state.permit = await admit(estimated_cost_usd=price_usd(route))
            return permit, "budget_spent"
        return permit, None if permit.teacher_allowed else permit.degraded

    async def _answer(self, exchange: Exchange, state: RequestState, request: ChatRequest, attempts: Attempts) -> None:
        """Try the backends in order; the first one that answers is committed to. Raises: LocumError."""
        if request.stream and self._server.heartbeat_interval_s is not None:
            exchange.begin_heartbeats(self._server.heartbeat_interval_s, lambda: stream_head(state))
        attempt = await attempts.next()
        while attempt is not None:
            state.take(attempt)
            try:
                await self._delivery.deliver(exchange, state, request, attempts, attempt)
                return
            except BackendError as error:
                logger.info("%s: the %s failed: %s", state.decision_id, attempt.backend.name, error.cause)
                attempt = await attempts.next(error)
        state.backend = state.degraded = None
        assert state.deadline is not None  # noqa: S101 - set before any backend is asked
        raise unavailable(attempts, state.deadline, retry_after_s=state.generation.document.server.retry_after_s)

    async def _end_with(self, error: LocumError, exchange: Exchange, state: RequestState) -> None:
        """An error response, or in a stream that has begun an error event and the close.

        A client that does not read cannot hold the request: the last bytes have `DRAIN_S` to leave.
        """
        exchange.stop_watching()
        await exchange.stop_heartbeats()
        state.error_code = error.code
        state.outcome = outcome_of(error, admitted=state.permit is not None)
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
        headers = [*answer_headers(state), *error_headers(error)]
        await exchange.respond(error.status, headers, state.dialect.error_body(error))

    async def _end_without_client(self, state: RequestState) -> None:
        state.status, state.outcome = CLIENT_CLOSED_REQUEST, "client_disconnected"
        await self._outcomes.settle(state, time.monotonic())
