"""The composition root: the one place where the parts of a gateway are made and connected."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from starlette.routing import Route

from policies.base import Policy, Signal
from router.auth import Keyring
from router.backends import Backend
from router.config import Config, ConfigError
from router.encoder import Encoder, EncoderUnavailable
from router.endpoints import add_endpoints, comes_from_foreign_page, foreign_origin_response
from router.exchange import Receive, Scope, Send
from router.gateway import Gateway
from router.metrics import Metrics
from router.outcome import Outcomes
from router.probes import Prober
from router.routing import Decider, build_chain
from router.signals import SignalSource
from router.tokenizer import PromptTokenizer, TokenizerUnsupported, load_tokenizer
from router.traffic_log import TrafficLog

logger = logging.getLogger(__name__)

ENCODER_SIGNALS = frozenset({Signal.CHUNK_SIMILARITIES, Signal.PROMPT_EMBEDDING})
Background = AbstractAsyncContextManager[object]
"""Something that runs beside the gateway for as long as it serves, such as a supervised student."""


class Parts:
    """Everything that a gateway consists of. Building it opens no socket and no file but the model artefacts."""

    def __init__(self, config: Config, environ: Mapping[str, str] = os.environ) -> None:
        """Raises: ConfigError."""
        self.config = config
        self.metrics = Metrics()
        self.student = Backend("student", config.student, environ)
        self.teacher = Backend("teacher", config.teacher, environ)
        self.log = TrafficLog(config.log, self.metrics) if config.log.dir else None
        self.chain = build_chain(config.routing)
        self.tokenizer = _tokenizer(config)
        self.encoder = _encoder(config, self.chain.policies)
        signals = SignalSource(tokenizer=self.tokenizer, encoder=self.encoder, budget_s=config.encoder.latency_budget_s)
        self.decider = Decider(config, self.chain, signals, self.student)
        self.outcomes = Outcomes(
            student=self.student,
            teacher=self.teacher,
            metrics=self.metrics,
            log=self.log,
            capture=config.log.capture,
            distillation=config.teacher.distillation,
        )
        self.keyring = Keyring.from_config(config.auth, environ)
        self.gateway = Gateway(
            config,
            student=self.student,
            teacher=self.teacher,
            decider=self.decider,
            keyring=self.keyring,
            outcomes=self.outcomes,
            metrics=self.metrics,
        )
        self.prober = Prober([self.student, self.teacher], self.metrics, interval_s=config.server.probe_interval_s)


def build_app(
    config: Config, *, environ: Mapping[str, str] = os.environ, background: Background | None = None
) -> FastAPI:
    """The gateway as an ASGI application. Raises: ConfigError."""
    parts = Parts(config, environ)
    if parts.log is not None:
        parts.log.check()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as running:
            await running.enter_async_context(parts.student)
            await running.enter_async_context(parts.teacher)
            if parts.log is not None:
                await parts.log.start()
                running.push_async_callback(parts.log.stop)
            running.push_async_callback(parts.gateway.drained)
            if parts.encoder is not None:
                running.push_async_callback(parts.encoder.close)
                await parts.encoder.warm()
            if background is not None:
                await running.enter_async_context(background)
            await running.enter_async_context(parts.prober)
            await parts.prober.once()
            running.push_async_callback(_cancelled, asyncio.create_task(parts.prober.run()))
            parts.metrics.student_info.info({"student": config.student.model})
            yield

    app = Application(
        title="Locum",
        summary="An OpenAI-compatible inference router.",
        lifespan=lifespan,
        openapi_url=None,  # and with it the pages that would load scripts from a CDN
        redirect_slashes=False,
    )
    app.refuses_foreign_origins = config.auth is None
    app.add_hot_route("/v1/chat/completions", parts.gateway)
    add_endpoints(app, parts)
    return app


class Application(FastAPI):
    """FastAPI with hot routes: raw ASGI endpoints that are found before the middleware stack, which would cost a
    seventh of the time that such a request takes.

    Without keys whoever reaches the socket may spend the teacher's money, and every web page in the operator's browser
    reaches loopback. `refuses_foreign_origins` tells those pages apart.
    """

    refuses_foreign_origins = False

    def add_hot_route(self, path: str, endpoint: Gateway) -> None:
        self._hot = {**getattr(self, "_hot", {}), path: endpoint}
        self.router.routes.append(Route(path, endpoint=endpoint, methods=["POST"]))  # answers other methods with 405

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if self.refuses_foreign_origins and path.startswith("/v1") and comes_from_foreign_page(scope["headers"]):
                await foreign_origin_response()(scope, receive, send)
                return
            endpoint = self._hot.get(path) if scope["method"] == "POST" else None
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def _tokenizer(config: Config) -> PromptTokenizer | None:
    """The student's tokenizer. A configured one must load; without one, or with an unsupported kind, the length
    estimate stands and the votes of `long_context` say so."""
    path = config.student.tokenizer or (config.student.vllm.model if config.student.vllm else None)
    if path is None:
        return None
    try:
        return load_tokenizer(Path(path))
    except TokenizerUnsupported as exc:
        if config.student.tokenizer is not None:
            raise ConfigError("student.tokenizer", [str(exc)]) from exc
        logger.warning("%s", exc)
        return None


def _encoder(config: Config, policies: tuple[Policy, ...]) -> Encoder | None:
    wanted = [p.name for p in policies if getattr(p, "optional_signals", frozenset)() & ENCODER_SIGNALS]
    if not wanted:
        return None
    try:
        return Encoder.load(config.encoder)
    except EncoderUnavailable as exc:
        raise ConfigError("encoder", [f"the policy {wanted[0]} asks for local embeddings: {exc}"]) from exc


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
