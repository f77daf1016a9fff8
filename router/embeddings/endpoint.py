"""The endpoint: authenticate, parse, admit, embed, write the record, answer. No policy decides here.

One `DecisionRecord` ends every request, on every way out; see `router/embeddings/outcome.py`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, Self

from router.admission import Admission
from router.config import Config, ConfigError
from router.config.embeddings import EmbeddingsConfig
from router.decision_ids import DecisionIds, with_level
from router.embeddings import local, outcome
from router.embeddings.local import Answered, LocalModel
from router.embeddings.outcome import EmbeddingOutcomes, EmbeddingState
from router.embeddings.remote import RemoteModel
from router.embeddings.request import EmbeddingRequest
from router.encoder import EncoderUnavailable
from router.endings import CLIENT_CLOSED_REQUEST, error_headers, error_of, outcome_of
from router.errors import InvalidRequest, LocumError, Overloaded, UnsupportedEncoding, error_body
from router.exchange import Exchange
from router.generations import Generations
from router.http_client import Headers
from router.logs import belong_to
from router.metrics import Metrics
from router.resilience.deadline import Deadline
from router.resilience.pool import OnBreaker, Pool
from router.time_limit import TimeLimit

if TYPE_CHECKING:
    from router.telemetry.embeddings import EmbeddingTrace
    from router.telemetry.exporting import Telemetry

DRAIN_S = 2.0


class Model(Protocol):
    """Where embeddings come from."""

    @property
    def pools(self) -> Sequence[Pool]:
        """Its backends; none for a model in this process."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def answer(
        self, request: EmbeddingRequest, headers: Headers, deadline: Deadline, trace: EmbeddingTrace | None = None
    ) -> Answered:
        """
        Args:
            headers: the client's.
            trace: is told of every call.
        Raises:
            LocumError.
        """


def open_model(
    config: Config, metrics: Metrics, environ: Mapping[str, str] = os.environ, *, on_breaker: OnBreaker
) -> Model | None:
    """As configured; None without an `[embeddings]` table. A local model is loaded, which takes seconds.

    Raises: ConfigError.
    """
    table = config.embeddings
    if table is None:
        return None
    if table.base_url is not None:
        return RemoteModel(table, config, metrics, environ, on_breaker=on_breaker)
    try:
        return LocalModel(local.load(table), table)
    except EncoderUnavailable as exc:
        raise ConfigError("configuration", [str(exc)]) from exc


class Embeddings:
    """The endpoint."""

    path = outcome.PATH

    def __init__(
        self,
        config: Config,
        model: Model | None,
        *,
        generations: Generations,
        admission: Admission,
        outcomes: EmbeddingOutcomes,
        metrics: Metrics,
        telemetry: Telemetry | None = None,
    ) -> None:
        """
        Args:
            generations: know the bounds that are in force now.
        """
        self._server = config.server
        self._table = config.embeddings or EmbeddingsConfig()
        self._known = frozenset({self._table.model, *self._table.aliases})
        self._model = model
        self._generations = generations
        self._admission = admission
        self._outcomes = outcomes
        self._metrics = metrics
        self._telemetry = telemetry
        self._ids = DecisionIds()
        self._inflight = 0

    async def serve(self, exchange: Exchange) -> None:
        """Serve one request, and end it in exactly one record whatever happens."""
        state = EmbeddingState(self._ids.next(), time.monotonic(), self._generations.current)
        belong_to(state)
        if self._telemetry is not None:
            self._telemetry.begin_embeddings(state, self.path, exchange.headers)
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
            if state.permit is not None and state.permit.is_open:  # else settled with the record
                await state.permit.settle(tokens=None, cost_usd=None)
            if state.trace is not None:
                state.trace.end()
            self._inflight -= 1
            self._metrics.add_inflight(-1)

    async def drained(self) -> None:
        """Wait until every request has left its record; cancelled ones take a moment."""
        deadline_s = time.monotonic() + DRAIN_S
        while self._inflight and time.monotonic() < deadline_s:  # noqa: ASYNC110 - as in the gateway
            await asyncio.sleep(0.01)

    async def _serve(self, exchange: Exchange, state: EmbeddingState, limit: TimeLimit) -> None:
        server, bounds = self._server, state.generation.document.server
        tenant = state.tenant = self._admission.authenticate(exchange.headers)
        if self._model is None:
            missing = InvalidRequest("Embeddings are not configured: add an [embeddings] table.", code="not_found")
            missing.status = 404
            raise missing
        if self._inflight > bounds.max_inflight_requests + server.max_queued_requests:
            raise Overloaded("The gateway is full; try again soon.", retry_after_s=bounds.retry_after_s)
        if exchange.header(b"content-encoding") not in (None, b"identity"):
            raise UnsupportedEncoding("Send the body uncompressed: content-encoding is not supported.")
        data = await exchange.read_body(limit_bytes=bounds.max_body_bytes)
        state.body_read_s = time.monotonic()
        deadline = Deadline(asyncio.get_running_loop().time() + server.request_timeout_s)
        limit.move_to(deadline.at_s)
        exchange.watch()
        request = state.request = EmbeddingRequest.parse(
            data, exchange.headers, known_models=self._known, max_inputs=self._table.max_inputs
        )
        tenant.check_model(request.model)
        state.decision_id = with_level(state.decision_id, self._outcomes.capture_of(state))
        state.permit = await self._admission.admit(
            tenant,
            holder=state.decision_id,
            estimated_tokens=request.approx_tokens,
            estimated_cost_usd=self._outcomes.cost_usd(request.approx_tokens),
            deadline_s=deadline.at_s,
        )
        state.called_s = time.monotonic()
        answered = await self._model.answer(request, exchange.headers, deadline, state.trace)
        await self._deliver(exchange, state, answered)

    async def _deliver(self, exchange: Exchange, state: EmbeddingState, answered: Answered) -> None:
        """An answer, or a backend's refusal of the request, which belongs to the client as it is."""
        state.status, state.outcome, state.tokens = answered.status, "ok", answered.tokens
        if answered.status >= 400:
            state.outcome, state.error_code = "client_error", "refused_by_backend"
        await self._outcomes.settle(state)
        limits = state.permit.headers if state.permit is not None else []
        own = [header for header in answered.headers if not limits or not header[0].startswith(b"x-ratelimit-")]
        await exchange.respond(answered.status, [*_headers(state), *own, *limits], answered.body)

    async def _end_with(self, error: LocumError, exchange: Exchange, state: EmbeddingState) -> None:
        """An error in OpenAI's form; where an answer has begun, the server closes the connection."""
        exchange.stop_watching()
        state.error_code, state.outcome = error.code, outcome_of(error, admitted=state.permit is not None)
        if not exchange.started:
            state.status = error.status
        await self._outcomes.settle(state)
        if exchange.started:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                headers = [*_headers(state), *error_headers(error)]
                await exchange.respond(error.status, headers, error_body(error))

    async def _end_without_client(self, state: EmbeddingState) -> None:
        state.status, state.outcome = CLIENT_CLOSED_REQUEST, "client_disconnected"
        await self._outcomes.settle(state)


def _headers(state: EmbeddingState) -> Headers:
    return [(b"x-router-decision-id", state.decision_id.encode())]
