"""Embeddings by a backend: the request is forwarded byte for byte, and so is the answer.

It is called as the models are: retries within the request's deadline, Retry-After, a circuit breaker, TLS.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from router.backends import Backend
from router.config import BackendConfig, Config
from router.config.embeddings import EmbeddingsConfig
from router.embeddings.local import Answered
from router.embeddings.request import EmbeddingRequest, used_tokens
from router.endings import unavailable
from router.errors import BackendBroken, BackendError, BackendTimeout
from router.http_client import Headers
from router.metrics import Metrics
from router.resilience.attempts import Attempts, Step, Tools
from router.resilience.deadline import Deadline
from router.resilience.pool import OnBreaker, Pool
from router.time_limit import TimeLimit

if TYPE_CHECKING:
    from router.telemetry.embeddings import EmbeddingTrace

PATH = b"/embeddings"


class RemoteModel:
    """Answers requests."""

    def __init__(
        self,
        table: EmbeddingsConfig,
        config: Config,
        metrics: Metrics,
        environ: Mapping[str, str] = os.environ,
        *,
        on_breaker: OnBreaker,
    ) -> None:
        """Raises: ConfigError: the key or a file of its TLS cannot be used."""
        assert table.base_url is not None  # noqa: S101 - else the model is a local one
        options = BackendConfig(
            base_url=table.base_url,
            model=table.model,
            api_key_env=table.api_key_env,
            connect_timeout_s=table.connect_timeout_s,
            request_timeout_s=table.request_timeout_s,
            tls=table.tls,
        )
        self.pools = (Pool([Backend("embeddings", options, environ)], config.resilience, on_breaker=on_breaker),)
        self._steps = tuple(map(Step, self.pools))
        self._tools = Tools(config.resilience.retries, metrics, Random())  # noqa: S311 - waits
        self._max_response_bytes = config.server.max_response_bytes
        self._retry_after_s = config.server.retry_after_s

    async def __aenter__(self) -> RemoteModel:
        for pool in self.pools:
            await pool.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for pool in self.pools:
            await pool.__aexit__(None, None, None)

    async def answer(
        self, request: EmbeddingRequest, headers: Headers, deadline: Deadline, trace: EmbeddingTrace | None = None
    ) -> Answered:
        """The backend's answer, or its refusal of the request itself. Raises: RateLimited, NoRoute, BackendTimeout."""
        watchers = () if trace is None else (trace,)
        attempts = Attempts(self._steps, request, deadline, tools=self._tools, watchers=watchers)
        ask = partial(self._ask, request, headers, deadline, trace)
        attempt = await attempts.next()
        while attempt is not None:
            try:
                answering, answered = await attempts.first_answer(attempt, ask, _drop)
            except BackendError as error:
                attempt = await attempts.next(error)
            else:
                answering.done()
                return answered
        raise unavailable(attempts, deadline, retry_after_s=self._retry_after_s)

    async def _ask(
        self,
        request: EmbeddingRequest,
        headers: Headers,
        deadline: Deadline,
        trace: EmbeddingTrace | None,
        backend: Backend,
    ) -> Answered:
        """One call. Raises: BackendError."""
        headers = headers if trace is None else trace.forwarded(headers, backend)
        limit_s = deadline.cut(backend.config.request_timeout_s)
        body = request.forwarded(backend.config.model)
        try:
            with TimeLimit(limit_s):
                answer = await backend.post(PATH, body, headers)
                try:
                    content = await answer.body(self._max_response_bytes)
                finally:
                    answer.close()
        except TimeoutError as exc:
            raise BackendTimeout(f"no answer within {limit_s:g} s", cause="timeout") from exc
        found = (*answer.headers, (b"content-type", answer.content_type))
        if answer.status >= 400:
            return Answered(answer.status, content, None, found)
        try:
            tokens = used_tokens(content, inputs=len(request.inputs))
        except ValueError as exc:
            raise BackendBroken(str(exc), cause="invalid_response") from exc
        return Answered(answer.status, content, tokens, found)


def _drop(answered: Answered) -> None:
    """Of an answer that came too late nothing is open any more."""
