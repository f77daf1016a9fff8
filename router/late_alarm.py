"""The late alarm: a stream that the client reads already turns out weak, and is ended with a mark or by a teacher.

The window saw the beginning only. Behind it the tokens that came last are looked at, event by event; when the reviewers
ring, the event that made them is not passed on. What the client has stays, so that the teacher continues it, and where
nobody can the stream goes on or ends with a mark, as configured: one answer, one end, and the record says which.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from policies.base import RequestFeatures, RouteDecision
from policies.record import LateEnding, Usage
from policies.window import CommitWindow, LateAlarm, Progress
from router.backends import Answer, Backend
from router.continuation import NoContinuation, Seam, continued, outgoing
from router.dialects.base import Outgoing
from router.draft_stream import DraftStream
from router.errors import BackendError
from router.exchange import Exchange
from router.metrics import Metrics
from router.opening import Opened
from router.request_state import RequestState
from router.resilience.attempts import Attempt

logger = logging.getLogger(__name__)

LATE_ALARM = "late_alarm"
"""`degraded` of an answer that was ended there."""
ABANDONED = "abandoned"
"""`LateEnding.cause` where nobody waited for the teacher's first event any more."""
Open = Callable[[Backend, Outgoing, Seam], Awaitable[Opened]]
AskTeachers = Callable[[Callable[[Backend], Awaitable[Opened]]], Awaitable[tuple[Attempt, Opened]]]


class LateWatch:
    """Watches one stream. Made when its window has committed it."""

    def __init__(
        self,
        window: CommitWindow,
        alarm: LateAlarm,
        state: RequestState,
        answered: Attempt,
        *,
        open_rest: Open,
        ask_teachers: AskTeachers,
        heartbeat: Callable[[], None],
    ) -> None:
        """
        Args:
            answered: the student's attempt, which ends when it is stopped.
            open_rest: opens the rest of the answer at one teacher.
            ask_teachers: has that done by the first teacher that can.
            heartbeat: begins comments for the client, until the answer goes on.
        """
        self.recent: deque[float] = deque(maxlen=alarm.tokens)
        self._alarm = alarm
        self._reserve = window.on_escalation == "reserve"
        self._answered = answered
        self._open_rest = open_rest
        self._ask_teachers = ask_teachers
        self._heartbeat = heartbeat
        self._chain = state.generation.decider.chain
        assert state.evaluation is not None  # noqa: S101 - it was reviewed
        self._features: RequestFeatures = state.evaluation.features
        self._rang: RouteDecision | None = None
        self._seams: dict[Answer, Seam] = {}
        self._asking: Backend | None = None
        """The teacher whose first event is awaited."""

    def rings(self, block: bytes, tokens: int) -> bool:
        recent = self.recent
        if len(recent) < self._alarm.tokens or _ends(block):
            return False
        mean = sum(recent) / len(recent)
        progress = Progress(tokens=tokens, recent_tokens=len(recent), recent_mean_logprob=mean)
        self._rang = self._chain.alarm(self._features, progress)
        return self._rang is not None

    async def end(
        self, stream: DraftStream, block: bytes, exchange: Exchange, state: RequestState, metrics: Metrics
    ) -> bytes:
        assert self._rang is not None  # noqa: S101 - see `rings`
        late = LateEnding(tokens=stream.tokens, action="mark", alarm=self._rang)
        if self._alarm.action == "mark":
            self._stop(stream, state)
            return self._marked(stream, state, metrics, late)
        try:
            text = stream.text_so_far()
            body = continued(_request(state), text, is_text=stream.is_text, tokens=stream.tokens)
        except NoContinuation as no:
            self._note(state, metrics, msgspec.structs.replace(late, action="none", cause=no.cause))
            return await stream.go_on(block, exchange, state, metrics)
        if self._reserve:
            assert state.draft is not None  # noqa: S101 - it was judged
            state.draft = stream.counted(state.draft, self._features)
        else:
            self._stop(stream, state)

        async def ask(backend: Backend) -> Opened:
            asked = outgoing(_request(state), body, backend.config, stream.translation)
            seam = Seam(stream.identity, _used_before(state))
            self._asking = backend
            try:
                opened = await self._open_rest(backend, asked, seam)
            except BackendError:
                self._asking = None  # a call that failed costs nothing
                raise
            self._seams[opened.answer] = seam
            return opened

        try:
            attempt, opened = await self._asked(ask, exchange, state, metrics, late)
        except BackendError as error:
            logger.info("%s: nobody goes on after a late alarm: %s", state.decision_id, error.cause)
            metrics.fallbacks.labels(error.cause).inc()
            if not self._reserve:
                return self._marked(stream, state, metrics, msgspec.structs.replace(late, cause=error.cause))
            self._note(state, metrics, msgspec.structs.replace(late, action="none", cause=error.cause))
            return await stream.go_on(block, exchange, state, metrics)
        if self._reserve:
            self._stop(stream, state)
        return await self._continued(stream, attempt, opened, exchange, state, metrics, late)

    async def _asked(
        self,
        ask: Callable[[Backend], Awaitable[Opened]],
        exchange: Exchange,
        state: RequestState,
        metrics: Metrics,
        late: LateEnding,
    ) -> tuple[Attempt, Opened]:
        """The first teacher's stream at its first event. Raises: BackendError."""
        student = state.backend
        self._heartbeat()
        try:
            return await self._ask_teachers(ask)
        except asyncio.CancelledError:
            if self._asking is not None:  # it is reading the prompt, and charges for that
                part = _estimated(state, state.streamed_events)
                self._note(state, metrics, _taken(msgspec.structs.replace(late, cause=ABANDONED), self._asking, part))
            raise
        finally:
            state.backend = student  # whose answer the client was told that it is
            await exchange.stop_heartbeats()

    async def _continued(
        self,
        stream: DraftStream,
        attempt: Attempt,
        opened: Opened,
        exchange: Exchange,
        state: RequestState,
        metrics: Metrics,
        late: LateEnding,
    ) -> bytes:
        """Pass the teacher's part on. Returns: the last bytes. Raises: BackendError: it broke as well."""
        rest = opened.stream
        assert rest is not None and state.draft is not None  # noqa: S101 - refusals have been raised
        silence_s = time.monotonic() - (state.last_event_s or 0.0)
        late = msgspec.structs.replace(late, silence_s=silence_s)
        self._note(state, metrics, _taken(late, attempt.backend))
        events = state.streamed_events
        with attempt:
            try:
                tail = await stream.follow(rest, exchange, state, metrics)
            finally:
                part = self._seams[opened.answer].usage or _estimated(state, events)
                if state.usage is not None:
                    state.usage = _sum(_used_before(state), part)
                self._write(state, _taken(late, attempt.backend, part))
                stream.record_text(state)
                opened.close()
        return tail

    def _stop(self, stream: DraftStream, state: RequestState) -> None:
        """The student writes no more; what it wrote is counted."""
        assert state.draft is not None  # noqa: S101 - it was judged
        state.draft = stream.cancel(state.draft, self._features)
        self._answered.done()

    def _marked(self, stream: DraftStream, state: RequestState, metrics: Metrics, late: LateEnding) -> bytes:
        """The end of an answer that nobody continues."""
        assert state.draft is not None  # noqa: S101 - it was judged
        self._note(state, metrics, late)
        state.usage, state.finish_reason, state.degraded = state.draft.usage, self._alarm.finish_reason, LATE_ALARM
        mark: dict[str, Any] = {"action": late.action, "tokens": late.tokens, "decision_id": state.decision_id}
        for name, value in (("score", late.alarm.score), ("threshold", late.alarm.threshold), ("cause", late.cause)):
            if value is not None:
                mark[name] = value
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": self._alarm.finish_reason}
        head = {"object": "chat.completion.chunk", **stream.identity}
        chunks: list[dict[str, Any]] = [{**head, "choices": [choice], "router": {LATE_ALARM: mark}}]
        usage = state.usage
        if usage is not None and (_request(state).wants_usage or stream.translation is not None):
            chunks.append({**head, "choices": [], "usage": _stated(usage)})
        return stream.ended_by(chunks)

    def _note(self, state: RequestState, metrics: Metrics, late: LateEnding) -> None:
        metrics.late_alarms.labels(late.action).inc()
        self._write(state, late)

    def _write(self, state: RequestState, late: LateEnding) -> None:
        draft = state.draft
        assert draft is not None and draft.window is not None  # noqa: S101 - it was judged
        state.draft = msgspec.structs.replace(draft, window=msgspec.structs.replace(draft.window, late=late))


def _taken(late: LateEnding, teacher: Backend, part: Usage | None = None) -> LateEnding:
    """The teacher goes on, or was asked to.

    Args:
        part: what it took; None: not known yet.
    """
    cost_usd = teacher.price.cost_usd(part) if part is not None and teacher.price is not None else None
    return msgspec.structs.replace(late, action="continue", teacher=teacher.config.model, usage=part, cost_usd=cost_usd)


def _request(state: RequestState) -> Any:
    assert state.request is not None  # noqa: S101 - it is being answered
    return state.request


def _used_before(state: RequestState) -> Usage:
    assert state.draft is not None and state.draft.usage is not None  # noqa: S101 - a draft always has one
    return state.draft.usage


def _ends(block: bytes) -> bool:
    """Whether the answer may end here: then it is too late."""
    return b'"finish_reason":"' in block or b'"finish_reason": "' in block or b"[DONE]" in block


def _estimated(state: RequestState, events: int) -> Usage:
    """The part of a teacher that did not tell it: an event is a token, as backends send them."""
    before = _used_before(state)
    prompt_tokens = before.prompt_tokens + before.completion_tokens
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=state.streamed_events - events)


def _sum(before: Usage, part: Usage) -> Usage:
    return msgspec.structs.replace(
        part,
        prompt_tokens=before.prompt_tokens + part.prompt_tokens,
        completion_tokens=before.completion_tokens + part.completion_tokens,
    )


def _stated(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
