"""The endpoint: authenticate, admit, embed, settle. No policy decides here, and there is no decision record."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Literal, Protocol, Self

from router.admission import Admission, Permit, Tenant
from router.config import Config, ConfigError
from router.config.embeddings import EmbeddingsConfig
from router.decision_ids import DecisionIds
from router.embeddings import local
from router.embeddings.local import Answered, LocalModel
from router.embeddings.remote import RemoteModel
from router.embeddings.request import EmbeddingRequest
from router.encoder import EncoderUnavailable
from router.errors import (
    BackendError,
    BackendTimeout,
    InvalidRequest,
    LocumError,
    NoRoute,
    ShuttingDown,
    UnsupportedEncoding,
    error_body,
)
from router.exchange import ClientGone, Exchange, Receive, Scope, Send
from router.http_client import Headers
from router.metrics import Metrics

logger = logging.getLogger(__name__)

Outcome = Literal["ok", "client_error", "rejected", "backend_error", "client_disconnected"]
JSON: Headers = [(b"content-type", b"application/json")]


class Model(Protocol):
    """Where embeddings come from."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def answer(self, request: EmbeddingRequest) -> Answered:
        """Raises: LocumError."""


def open_model(config: Config, environ: Mapping[str, str] = os.environ) -> Model | None:
    """As configured; None without an `[embeddings]` table. A local model is loaded, which takes seconds.

    Raises: ConfigError.
    """
    table, server = config.embeddings, config.server
    if table is None:
        return None
    if table.base_url is None:
        try:
            return LocalModel(local.load(table), table)
        except EncoderUnavailable as exc:
            raise ConfigError("configuration", [str(exc)]) from exc
    return RemoteModel(
        table,
        max_response_bytes=server.max_response_bytes,
        retry_after_s=server.retry_after_s,
        environ=environ,
    )


class Embeddings:
    """The ASGI endpoint."""

    path = "/v1/embeddings"

    def __init__(self, config: Config, model: Model | None, *, admission: Admission, metrics: Metrics) -> None:
        self._server = config.server
        self._table = config.embeddings or EmbeddingsConfig()
        self._known = frozenset({self._table.model, *self._table.aliases})
        self._model = model
        self._admission = admission
        self._metrics = metrics
        self._ids = DecisionIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        outcome: Outcome = "ok"
        try:
            await self._serve(exchange)
        except LocumError as error:
            outcome = _outcome_of(error)
            await _respond(exchange, error)
        except ClientGone:
            outcome = "client_disconnected"
        except asyncio.CancelledError:
            outcome = "client_disconnected"
            if not exchange.client_gone:  # the server's drain time is over
                outcome = "rejected"
                await _respond(exchange, ShuttingDown("The gateway is shutting down.", retry_after_s=1))
        except Exception:  # whatever it is, the client gets an answer
            outcome = "backend_error"
            logger.exception("a request for embeddings failed inside the gateway")
            await _respond(exchange, LocumError("Internal error; the gateway's log says more."))
        finally:
            exchange.stop_watching()
            self._metrics.embedding_requests.labels(outcome).inc()

    async def _serve(self, exchange: Exchange) -> None:
        tenant = self._admission.authenticate(exchange.headers)
        if self._model is None:
            missing = InvalidRequest("Embeddings are not configured: add an [embeddings] table.", code="not_found")
            missing.status = 404
            raise missing
        if exchange.header(b"content-encoding") not in (None, b"identity"):
            raise UnsupportedEncoding("Send the body uncompressed: content-encoding is not supported.")
        request = await self._request(exchange)
        tenant.check_model(request.model)
        exchange.watch()
        answered = await self._answer(tenant, request, self._model)
        await exchange.respond(answered.status, [*(answered.headers or JSON)], answered.body)

    async def _request(self, exchange: Exchange) -> EmbeddingRequest:
        """Raises: InvalidRequest, ClientGone."""
        try:
            async with asyncio.timeout(self._server.body_timeout_s):
                data = await exchange.read_body(limit_bytes=self._server.max_body_bytes)
        except TimeoutError as exc:
            late = InvalidRequest("The request body did not arrive within server.body_timeout_s.", code="body_timeout")
            late.status = 408
            raise late from exc
        return EmbeddingRequest.parse(data, known_models=self._known, max_inputs=self._table.max_inputs)

    async def _answer(self, tenant: Tenant, request: EmbeddingRequest, model: Model) -> Answered:
        """Raises: LocumError."""
        limit_s = self._table.request_timeout_s
        permit = await self._admission.admit(
            tenant,
            holder=self._ids.next(),
            estimated_tokens=request.approx_tokens,
            estimated_cost_usd=self._cost_usd(request.approx_tokens),
            deadline_s=asyncio.get_running_loop().time() + limit_s,
        )
        tokens: int | None = 0
        try:
            async with asyncio.timeout(limit_s):
                answered = await model.answer(request)
            tokens = answered.tokens if answered.status < 400 else 0
        except TimeoutError as exc:
            tokens = None
            raise BackendTimeout("Not answered within embeddings.request_timeout_s.", cause="timeout") from exc
        except asyncio.CancelledError:
            tokens = None  # the model may have done its work
            raise
        finally:
            await self._settle(permit, tokens)
        headers = (*(answered.headers or JSON), *permit.headers)
        return answered._replace(headers=headers)

    async def _settle(self, permit: Permit, tokens: int | None) -> None:
        if tokens:
            self._metrics.embedding_tokens.inc(tokens)
        await permit.settle(tokens=tokens, cost_usd=None if tokens is None else self._cost_usd(tokens))

    def _cost_usd(self, tokens: int) -> float | None:
        price_usd = self._table.price_usd_per_1m_input_tokens
        return None if price_usd is None else tokens * price_usd / 1e6


def _outcome_of(error: LocumError) -> Outcome:
    if isinstance(error, InvalidRequest):
        return "client_error"
    if isinstance(error, BackendError) or type(error) is NoRoute:
        return "backend_error"
    return "rejected"


async def _respond(exchange: Exchange, error: LocumError) -> None:
    """An error in OpenAI's form. Of an answer that has begun a part is missing: the server closes the connection."""
    exchange.stop_watching()
    if exchange.started:
        return
    headers = [*error.headers, *JSON]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await exchange.respond(error.status, headers, error_body(error))
