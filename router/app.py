"""The composition root: the one place where the parts of a gateway are made and connected."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from policies.bundle import Bundle
from router.additions import Additions
from router.admin.control import Control
from router.admission import Admission
from router.backends import Backend
from router.config import Config
from router.dialects.chat import CHAT
from router.dialects.completions import COMPLETION
from router.dialects.messages.endpoint import MESSAGES
from router.dialects.responses.endpoint import RESPONSES
from router.embeddings.endpoint import Embeddings, open_model
from router.embeddings.outcome import EmbeddingOutcomes
from router.endpoints import add_endpoints, comes_from_foreign_page, foreign_origin_response
from router.gateway import Gateway
from router.generations import Generation, Generations
from router.governance.governance import Governance
from router.hot import HotEndpoint
from router.http_client import Headers
from router.metrics import Metrics
from router.outcome import Outcomes
from router.pricing import price_of
from router.probes import Prober
from router.quality.opening import Shadowing
from router.quality.recent import RecentFeedback
from router.quality.watching import QualityWatch
from router.recorder import Recorder
from router.resilience.breaker import State
from router.resilience.pool import Pool
from router.resilience.routes import Routes
from router.response_cache import ResponseCache
from router.scrub.opening import open_log
from router.state import open_store
from router.students import Students
from router.telemetry.opening import open_telemetry

BREAKER_LEVELS: dict[State, int] = {"closed": 0, "half_open": 1, "open": 2}
"""Values of `router_breaker_state`."""
Install = Callable[[Bundle, Path, str], Awaitable[None]]
"""`Parts.install`."""
Background = Callable[[Install], AbstractAsyncContextManager[object]]
"""Makes what runs beside the gateway for as long as it serves: a supervised student, or the switch between several."""


DIALECTS = (CHAT, COMPLETION, RESPONSES, MESSAGES)
"""What clients may speak; each is an endpoint."""


class Parts:
    """Everything that a gateway consists of. Building it opens no socket and no file but the model artefacts."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str] = os.environ,
        *,
        path: Path | None = None,
        state_path: Path | None = None,
    ) -> None:
        """
        Args:
            path: of the configuration file, where edits of it shall be followed.
            state_path: socket of the memory that several workers share.
        Raises:
            ConfigError.
        """
        self.config = config
        self.metrics = Metrics()
        if config.student.registry is not None:
            self.metrics.watch_promotion(Path(config.student.registry))
        self.store = open_store(config, self.metrics, environ=environ, served_at=state_path)
        self.governance = Governance(
            self.store, self.metrics, folder=Path(config.admin.dir), price=lambda: price_of(config.teacher)
        )
        self.students = Students(config, environ, on_breaker=self._note_breaker, governance=self.governance)
        machines = list(filter(None, self.students.machines.values()))
        self.metrics.watch_machines(machines)
        if machines or price_of(config.student) is not None:
            self.metrics.expect_cost("student")
        if price_of(config.teacher) is not None:
            self.metrics.expect_cost("teacher")
        wanted = Additions(token_ids=config.teacher.capture_token_ids)
        self.teachers = [
            Pool(
                [Backend("teacher", teacher, environ, name=name, wanted=wanted)],
                config.resilience,
                on_breaker=self._note_breaker,
            )
            for name, teacher in config.teacher.in_order()
        ]
        self.routes = Routes(self.teachers, config.resilience.retries, self.metrics)
        self.log = open_log(config.log, self.metrics, environ) if config.log.dir else None
        longest_request_s = config.server.body_timeout_s + config.server.request_timeout_s
        self.generations = Generations(
            self.students.first(), drain_timeout_s=longest_request_s, on_change=self._announce
        )
        self.quality = QualityWatch(
            config,
            environ,
            teacher=self.teacher,
            generations=self.generations,
            store=self.store,
            metrics=self.metrics,
        )
        self.recent_feedback = RecentFeedback()
        self.shadowing = self._open_shadowing(environ) if config.quality.shadow.enabled else None
        recorder = Recorder(
            teacher=self.teacher,
            capture=config.log.capture,
            distillation=config.teacher.distillation,
            log=self.log,
        )
        self.outcomes = Outcomes(
            recorder,
            self.metrics,
            self.log,
            observers=[self.quality.observe, *([self.shadowing.offer] if self.shadowing is not None else [])],
            access_log=config.server.access_log,
            governance=self.governance,
        )
        self.admission = Admission(config, store=self.store, metrics=self.metrics, environ=environ)
        cache = ResponseCache(config, self.store, self.metrics) if config.cache.enabled else None
        self.telemetry = open_telemetry(config.telemetry, environ)
        self.gateway = Gateway(
            config,
            generations=self.generations,
            routes=self.routes,
            admission=self.admission,
            outcomes=self.outcomes,
            metrics=self.metrics,
            cache=cache,
            telemetry=self.telemetry,
        )
        self.embedder = open_model(config, self.metrics, environ, on_breaker=self._note_breaker)
        self.embeddings = Embeddings(
            config,
            self.embedder,
            generations=self.generations,
            admission=self.admission,
            outcomes=EmbeddingOutcomes(config, self.metrics, self.log),
            metrics=self.metrics,
            telemetry=self.telemetry,
        )
        self.control = Control(
            config,
            path=path,
            students=self.students,
            generations=self.generations,
            store=self.store,
            admission=self.admission,
            metrics=self.metrics,
            environ=environ,
        )
        self.prober = Prober(
            lambda: [self.student, *self.teachers, *(self.embedder.pools if self.embedder is not None else ())],
            self.metrics,
            interval_s=config.server.probe_interval_s,
        )

    def _open_shadowing(self, environ: Mapping[str, str]) -> Shadowing:
        assert self.log is not None  # noqa: S101 - the configuration was checked
        shadowing = Shadowing(
            self.config,
            environ,
            teacher=self.teacher,
            generations=self.generations,
            store=self.store,
            log=self.log,
            metrics=self.metrics,
            recent=self.recent_feedback,
        )
        shadowing.tell(self.quality.observe_shadow)
        return shadowing

    @property
    def student(self) -> Pool:
        """The one that serves now."""
        return self.generations.current.student

    @property
    def teacher(self) -> Pool:
        """The first one: what answers would have cost without a student is reckoned by it."""
        return self.teachers[0]

    async def install(self, bundle: Bundle, folder: Path, base_url: str) -> None:
        """Let a bundle that is up and warm answer new requests; returns when nothing uses its predecessor any more.

        Args:
            folder: of the bundle.
            base_url: where its model is served, up to and including `/v1`.
        Raises:
            ConfigError: the bundle cannot be used with this configuration; the one that serves goes on serving.
        """
        generation = await asyncio.to_thread(self.students.of_bundle, bundle, folder, base_url)
        await self.prober.probe(generation.student)  # its window must be known before the first request
        await self.control.engine.install_student(generation)

    def _note_breaker(self, replica: str, state: State) -> None:
        self.metrics.breaker_state.labels(replica).set(BREAKER_LEVELS[state])

    def _announce(self, generation: Generation) -> None:
        self.metrics.student_info.info({"student": generation.bundle_id})
        chain = generation.decider.chain
        self.governance.follow(chain)
        names = [*(each.name for each in chain.policies), *(each.name for each in chain.reviewers)]
        names += [each.name for each in (chain.governors.all if chain.governors is not None else ())]
        for name in names:
            self.metrics.policy_errors.labels(name)  # at zero, so that the first error is a rise
        self.quality.certificates.refresh()


def build_app(
    config: Config,
    *,
    environ: Mapping[str, str] = os.environ,
    background: Background | None = None,
    path: Path | None = None,
    state_path: Path | None = None,
) -> Application:
    """The gateway as an ASGI application. Raises: ConfigError."""
    parts = Parts(config, environ, path=path, state_path=state_path)
    if parts.log is not None:
        parts.log.check()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as running:
            await running.enter_async_context(parts.store)
            await running.enter_async_context(parts.admission)
            await running.enter_async_context(parts.generations)
            await running.enter_async_context(parts.governance)
            for teacher in parts.teachers:
                await running.enter_async_context(teacher)
            if parts.log is not None:
                await parts.log.start()
                running.push_async_callback(parts.log.stop)
            if parts.embedder is not None:
                await running.enter_async_context(parts.embedder)
            await running.enter_async_context(parts.telemetry or nullcontext())
            running.push_async_callback(parts.gateway.drained)
            running.push_async_callback(parts.embeddings.drained)
            running.push_async_callback(parts.students.close)
            encoder = parts.students.encoder
            if encoder is not None:
                await encoder.warm()
            await running.enter_async_context(parts.control)
            await parts.governance.sync()  # the document in force may be another one by now
            await running.enter_async_context(parts.prober)
            if background is not None:
                await running.enter_async_context(background(parts.install))
            await parts.prober.once()
            running.push_async_callback(_cancelled, asyncio.create_task(parts.prober.run()))
            await running.enter_async_context(parts.quality)
            if parts.student.needs_engine_load:
                interval_s = config.resilience.spill.metrics_interval_s
                running.push_async_callback(_cancelled, asyncio.create_task(parts.prober.watch_load(interval_s)))
            await _enter(running, parts.shadowing)  # the last, so that it is drained while both models are still there
            yield

    app = Application(
        title="Locum",
        summary="An OpenAI-compatible inference router.",
        lifespan=lifespan,
        openapi_url=None,  # and with it the pages that would load scripts from a CDN
        redirect_slashes=False,
    )
    app.refuses_foreign_origins = config.auth is None
    for dialect in DIALECTS:
        app.add_hot_route(parts.gateway.endpoint(dialect))
    app.add_hot_route(parts.embeddings)
    add_endpoints(app, parts)
    parts.control.add_to(app, parts.quality, parts.governance)
    return app


class Application(FastAPI):
    """FastAPI with hot routes, which the server's protocol finds before ASGI: messages and middleware would cost a
    quarter of the time that such a request takes.

    Without keys whoever reaches the socket may spend the teacher's money, and every web page in the operator's browser
    reaches loopback. `refuses_foreign_origins` tells those pages apart.
    """

    refuses_foreign_origins = False
    draining = False

    def begin_drain(self) -> None:
        """From now on `/readyz` tells load balancers to turn away; requests are still served."""
        self.draining = True

    def add_hot_route(self, endpoint: HotEndpoint) -> None:
        self._hot = {**getattr(self, "_hot", {}), endpoint.path: endpoint}
        self.router.routes.append(
            Route(endpoint.path, endpoint=_not_served_by_asgi, methods=["POST"])
        )  # answers other methods with 405

    def find_hot(self, path: str, headers: Headers) -> HotEndpoint | None:
        """The hot endpoint for a POST; None: the request is FastAPI's."""
        endpoint = self._hot.get(path)
        if endpoint is not None and self.refuses_foreign_origins and comes_from_foreign_page(headers):
            return None
        return endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._refuses(scope):
            await foreign_origin_response()(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _refuses(self, scope: Scope) -> bool:
        if not self.refuses_foreign_origins or scope["type"] != "http" or not scope["path"].startswith("/v1"):
            return False
        return comes_from_foreign_page(scope["headers"])


async def _not_served_by_asgi(request: Request) -> Response:
    raise RuntimeError("hot routes are served by router.protocol: start the gateway with `locum serve`")


async def _enter(running: AsyncExitStack, part: AbstractAsyncContextManager[object] | None) -> None:
    if part is not None:
        await running.enter_async_context(part)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
