"""One backend's answer on its way to the client: plain ones are checked, streams peeked, drafts of either reviewed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from policies.base import Route
from router.additions import NOTHING
from router.answer_headers import answer_headers, forwarded_headers, stream_head
from router.backends import Answer, Backend
from router.cascade import Cascade
from router.chat import ChatRequest
from router.commit_window import committed, review_of
from router.config.server import ServerConfig
from router.continuation import Seam
from router.dialects.base import Outgoing, refusal_of
from router.draft_stream import DraftStream
from router.errors import BackendError, BackendRefused, BackendTimeout
from router.exchange import Exchange
from router.late_alarm import LateWatch
from router.metrics import Metrics
from router.opening import Opened, open_rest, open_stream
from router.outcome import Outcomes
from router.plain import Reply, fetch
from router.request_state import RequestState
from router.resilience.attempts import Attempt, Attempts
from router.resilience.deadline import Deadline
from router.resilience.routes import Routes
from router.response_cache import ResponseCache
from router.second_sample import SecondSamples

RESERVE_S = 0.25
"""Of the request's whole time, kept for delivering a draft when the teachers are too slow."""

T = TypeVar("T", Reply, Opened)


class Delivery:
    """Delivers the answer of one backend, or raises `BackendError` with nothing of it sent."""

    def __init__(
        self,
        server: ServerConfig,
        *,
        routes: Routes,
        outcomes: Outcomes,
        metrics: Metrics,
        cache: ResponseCache | None = None,
    ) -> None:
        """
        Args:
            routes: know who is asked where a draft of the student is rejected.
            cache: of plain answers.
        """
        self._server = server
        self._routes = routes
        self._outcomes = outcomes
        self._metrics = metrics
        samples = SecondSamples(routes, metrics, limit_bytes=server.max_response_bytes)
        self._cascade = Cascade(metrics, samples)
        self._cache = cache
        self.caches = cache is not None
        """Whether `deliver_cached` is worth a call."""

    def deliver(
        self, exchange: Exchange, state: RequestState, request: ChatRequest, attempts: Attempts, attempt: Attempt
    ) -> Awaitable[None]:
        """Ask and pass on. Raises: BackendError: another backend may do better, the attempt has ended."""
        way = self._stream if request.stream else self._plain
        return way(exchange, state, request, attempts, attempt)  # no coroutine of its own: each frame would pass it

    async def _plain(
        self, exchange: Exchange, state: RequestState, request: ChatRequest, attempts: Attempts, attempt: Attempt
    ) -> None:
        """An answer in one piece, checked and reviewed before it is passed on. Raises: BackendError."""
        ask = partial(self._fetch, exchange, state, request)
        answered, reply = await attempts.first_answer(attempt, ask, _drop)
        answered.done()
        state.take(answered)
        if reply.meaning is not None and self._cascade.reviews(state, answered.backend):
            ask_teachers = partial(self._ask_teachers, state, request, ask, _drop)
            reply = await self._cascade.better_of(state, reply, ask_teachers)
        if reply.meaning is None:
            await self._pass_on_refusal(exchange, state, reply.answer, reply.body)
            return
        state.note(reply.meaning)
        state.status, state.outcome = reply.answer.status, "degraded" if state.degraded else "ok"
        state.name_route()
        await self._outcomes.settle(state, time.monotonic())
        await exchange.respond(reply.answer.status, answer_headers(state, reply.answer), reply.body)
        if self._cache is not None and state.cache_key is not None and state.route is not None and not state.degraded:
            await self._cache.keep(
                state.cache_key,
                route=state.route,
                answer=reply.answer,
                body=reply.body,
                usage=state.usage,
                finish_reason=state.finish_reason,
            )

    async def deliver_cached(self, exchange: Exchange, state: RequestState, request: ChatRequest, route: Route) -> bool:
        """Answer without a backend, if an answer to this very request was kept.

        Args:
            route: chosen for the request.
        """
        if self._cache is None or state.tenant is None:
            return False
        generation = state.generation
        state.cache_key = self._cache.key_of(
            request,
            exchange.headers,
            tenant=state.tenant.name,
            path=state.dialect.path,
            route=route,
            version=f"{generation.decider.version}/{generation.bundle_id}",
        )
        answer = None if state.cache_key is None else await self._cache.find(state.cache_key, exchange.headers)
        if answer is None:
            return False
        state.take_cached(answer)
        state.name_route()
        await self._outcomes.settle(state, time.monotonic())
        content_type = (b"content-type", answer.content_type.encode("latin-1"))
        await exchange.respond(state.status, [*answer_headers(state), content_type], answer.body)
        return True

    async def _ask_teachers(
        self,
        state: RequestState,
        request: ChatRequest,
        ask: Callable[[Backend], Awaitable[T]],
        discard: Callable[[T], None],
        *,
        reserve_s: float = RESERVE_S,
    ) -> tuple[Attempt, T]:
        """The first teacher's answer that can be had, and the attempt, which is the caller's to end.

        Args:
            reserve_s: of the request's time, for what is done when there is none.
        Raises:
            BackendError: also for a refusal: the student has shown that the request can be answered.
        """
        assert state.deadline is not None  # noqa: S101 - set before any backend is asked
        deadline = Deadline(state.deadline.at_s - reserve_s)
        attempts = self._routes.escalation(request, deadline, watchers=state.watchers)
        attempt = await attempts.next()
        try:
            async with asyncio.timeout(deadline.left_s()):
                while attempt is not None:
                    state.backend = attempt.backend
                    try:
                        answered, answer = await attempts.first_answer(attempt, ask, discard)
                    except BackendError as error:
                        attempt = await attempts.next(error)
                    else:
                        state.backend = answered.backend
                        if answer.is_refusal:
                            answered.done()
                            discard(answer)
                            raise BackendRefused(f"status {answer.answer.status}", cause="refused")
                        return answered, answer
        except TimeoutError as exc:
            raise BackendTimeout("no answer before the request's own deadline", cause="timeout") from exc
        assert attempts.failure is not None  # noqa: S101 - there is a teacher
        raise attempts.failure

    def _fetch(
        self, exchange: Exchange, state: RequestState, request: ChatRequest, backend: Backend
    ) -> Awaitable[Reply]:
        """A plain answer, with what we want beside it asked for and cut out again. Raises: BackendError."""
        added = NOTHING
        wanted = state.generation.wanted if backend.route == "student" else backend.wanted
        if wanted != NOTHING:
            added = request.additions(wanted, keeps_text=self._outcomes.captures_text(request))
        state.note_call()
        return fetch(
            backend,
            request,
            forwarded_headers(exchange, state, backend),
            added,
            detailed=wanted != NOTHING,
            limit_bytes=self._server.max_response_bytes,
            limit_s=state.cut(backend.config.request_timeout_s),
        )

    async def _stream(
        self, exchange: Exchange, state: RequestState, request: ChatRequest, attempts: Attempts, attempt: Attempt
    ) -> None:
        """A stream, committed to at its first event. Raises: BackendError before that, and only before."""
        ask = partial(self._open, exchange, state, request)
        answered, opened = await attempts.first_answer(attempt, ask, Opened.close)
        state.take(answered)
        if opened.draft is not None:
            answered, opened = await committed(
                self._cascade,
                state,
                answered,
                opened,
                partial(self._ask_teachers, state, request, ask, Opened.close, reserve_s=_asking_takes_s(state)),
                partial(self._ask_student_again, exchange, state, request),
            )
        with answered:
            try:
                if opened.draft is not None:
                    self._watch_behind_the_window(exchange, state, request, answered, opened.draft)
                if opened.stream is None:
                    await self._pass_on_refusal(exchange, state, opened.answer, opened.refusal)
                    return
                await self._begin(exchange, state, opened.answer)
                settle = partial(self._settle, state)
                answered.done(await opened.stream.relay(exchange, state, self._metrics, settle))
            finally:
                opened.close()
                if opened.stream is not None:
                    opened.stream.record_text(state)

    async def _ask_student_again(
        self, exchange: Exchange, state: RequestState, request: ChatRequest
    ) -> tuple[Attempt, Opened]:
        """The answer of a student whose draft was cancelled for a teacher that cannot be had. Nobody reviews it.

        Raises: BackendError.
        """
        assert state.deadline is not None  # noqa: S101 - set before any backend is asked
        ask = partial(self._open, exchange, state, request, reviewed=False)
        student = state.generation.student
        attempts = self._routes.student_alone(student, request, state.deadline, watchers=state.watchers)
        attempt = await attempts.next()
        while attempt is not None:
            try:
                answered, opened = await attempts.first_answer(attempt, ask, Opened.close)
            except BackendError as error:
                attempt = await attempts.next(error)
            else:
                state.backend = answered.backend
                return answered, opened
        assert attempts.failure is not None  # noqa: S101 - nobody answered
        raise attempts.failure

    def _watch_behind_the_window(
        self, exchange: Exchange, state: RequestState, request: ChatRequest, answered: Attempt, draft: DraftStream
    ) -> None:
        """Look at the student's stream while the client reads it, where that is configured."""
        window = state.generation.decider.commit_window
        if window is None or window.late_alarm is None or draft.is_whole or state.degraded is not None:
            return
        interval_s = self._server.heartbeat_interval_s

        def heartbeat() -> None:
            if interval_s is not None:
                exchange.begin_heartbeats(interval_s, lambda: stream_head(state))

        watch = LateWatch(
            window,
            window.late_alarm,
            state,
            answered,
            open_rest=partial(self._open_rest, exchange, state),
            ask_teachers=lambda ask: self._ask_teachers(state, request, ask, Opened.close),
            heartbeat=heartbeat,
        )
        draft.watch(watch, keep_text=window.late_alarm.action == "continue")

    def _open_rest(
        self, exchange: Exchange, state: RequestState, backend: Backend, asked: Outgoing, seam: Seam
    ) -> Awaitable[Opened]:
        """The rest of an answer, at its first event. Raises: BackendError, with nothing left open."""
        return open_rest(
            backend,
            asked,
            forwarded_headers(exchange, state, backend),
            seam,
            dialect=state.dialect,
            capture=True,  # where the draft's text is not kept, this is not either
            limit_bytes=self._server.max_response_bytes,
            limit_s=state.cut(backend.config.first_token_timeout_s),
        )

    def _open(
        self,
        exchange: Exchange,
        state: RequestState,
        request: ChatRequest,
        backend: Backend,
        *,
        reviewed: bool = True,
    ) -> Awaitable[Opened]:
        """A stream at its first event. Raises: BackendError, with nothing left open."""
        state.note_call()
        return open_stream(
            backend,
            request,
            forwarded_headers(exchange, state, backend),
            dialect=state.dialect,
            review=review_of(self._cascade, state, request, backend) if reviewed else None,
            capture=self._outcomes.captures_text(request),
            limit_bytes=self._server.max_response_bytes,
            limit_s=state.cut(backend.config.first_token_timeout_s),
        )

    async def _begin(self, exchange: Exchange, state: RequestState, answer: Answer) -> None:
        """The head of a stream that is committed to."""
        state.status = answer.status
        if not exchange.started:  # else the client has been told the id already
            state.name_route()
        headers = [*answer_headers(state, answer), (b"cache-control", b"no-cache")]
        await exchange.start(answer.status, headers)

    def _settle(self, state: RequestState) -> Awaitable[None]:
        return self._outcomes.settle(state, time.monotonic())

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


def _asking_takes_s(state: RequestState) -> float:
    """What is kept of a request's time for asking the student once more: as long as it has taken until now, but no more
    than half of what is left."""
    assert state.called_s is not None and state.deadline is not None  # noqa: S101 - a stream has begun
    return max(RESERVE_S, min(time.monotonic() - state.called_s, state.deadline.left_s() / 2))


def _drop(reply: Reply) -> None:
    """Of a plain answer that came too late nothing is open any more."""
