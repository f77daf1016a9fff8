"""Shadow answers: a sample of the answered requests is put to the other model, graded, and written to the log.

    client's answer ─ its record in the log ─ drawn? ─ queue ─ the other model ─ graders ─ `ShadowRecord`

All of it happens after the record of the answer, in tasks of its own. The queue, the calls at once, the time and the
money are bounded; whatever a bound keeps back is recorded as skipped, so that an estimate can tell how much of its
sample is missing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Protocol

from policies.base import Route
from policies.record import SCHEMA_VERSION, DecisionRecord, ShadowRecord, ShadowStatus, encode
from router.answers import Meaning
from router.chat import ChatRequest, storable
from router.config.quality import ShadowConfig
from router.metrics import Metrics
from router.quality.asking import Asked
from router.quality.graders import NOT_GRADED, Graded
from router.quality.pair import Pair
from router.quality.recent import RecentFeedback
from router.quality.sampling import Draw, Sampler
from router.request_state import RequestState
from router.routing import FORCED_POLICY
from router.traffic_log import TrafficLog

logger = logging.getLogger(__name__)

MAX_QUEUE_CHARS = 64 * 2**20
"""Of the requests that wait, in each worker."""
Observer = Callable[[ShadowRecord], None]


class Models(Protocol):
    """Who is asked (router/quality/asking.py)."""

    async def ask(self, record: DecisionRecord, request: ChatRequest, route: Route) -> Asked: ...


class Grading(Protocol):
    """Who grades (router/quality/graders.py)."""

    async def grade(self, pair: Pair) -> Graded: ...


@dataclass(slots=True, eq=False)
class Job:
    """A request that was drawn."""

    record: DecisionRecord
    request: ChatRequest
    draw: Draw
    due_s: float
    """Loop time at which the other model's answer must be there."""
    created_s: float = field(default_factory=time.time)

    @property
    def size_chars(self) -> int:
        return len(self.request.body.text)


class Shadows:
    """Draws requests and looks after the drawn ones. One instance a process, in the event loop."""

    def __init__(
        self,
        config: ShadowConfig,
        *,
        models: Models,
        graders: Grading,
        log: TrafficLog,
        metrics: Metrics,
        recent: RecentFeedback,
        max_queue_chars: int = MAX_QUEUE_CHARS,
    ) -> None:
        """
        Args:
            recent: knows labels that came by feedback.
        """
        self._config = config
        self._sampler = Sampler(config)
        self._models = models
        self._graders = graders
        self._log = log
        self._metrics = metrics
        self._recent = recent
        self._max_queue_chars = max_queue_chars
        self.observers: list[Observer] = []
        """They are told of every record that was written."""
        self._queue: deque[Job] = deque()
        self._queued_chars = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = 0
        """Tasks that look after a request; the others write down that one was skipped."""
        self._closed = False

    def offer(self, state: RequestState, record: DecisionRecord) -> None:
        """A request was answered and its record is in the log. Returns at once."""
        draw = self._sampler.draw(record)
        request = state.request
        if self._closed or draw is None or request is None or not _may_be_asked(state, record, request, draw.asked):
            return
        job = Job(record, request, draw, asyncio.get_running_loop().time() + self._config.deadline_s)
        full = len(self._queue) >= self._config.max_queue and self._calls >= self._config.max_concurrency
        if full or self._queued_chars + job.size_chars > self._max_queue_chars:
            self._start(self._skip(job, "skipped_queue"))
        else:
            self._queue.append(job)
            self._queued_chars += job.size_chars
            self._fill()

    async def drain(self) -> None:
        """End: what waits is skipped, what is under way has `drain_timeout_s`, and every draw has its record."""
        self._closed = True
        waiting, self._queue = self._queue, deque()
        for job in waiting:
            self._start(self._skip(job, "skipped_shutdown"))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._config.drain_timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _fill(self) -> None:
        while self._queue and not self._closed and self._calls < self._config.max_concurrency:
            job = self._queue.popleft()
            self._queued_chars -= job.size_chars
            self._calls += 1
            self._start(self._look_after(job))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_after(self, job: Job) -> None:
        """From the question to the record, which is written on every way out."""
        asked, graded = Asked("timeout", job.record.student), NOT_GRADED
        try:
            asked = _of_draft(job) or await self._ask(job)
            if asked.meaning is not None and asked.meaning.text is not None:
                graded = await self._graders.grade(self._pair(job, asked.meaning.text))
        except Exception:
            logger.exception("the shadow of %s failed", job.record.decision_id)
            if asked.meaning is None:
                asked = asked._replace(status="error")
        finally:
            await self._write(job, asked, graded)
            self._calls -= 1
            self._fill()

    async def _ask(self, job: Job) -> Asked:
        try:
            async with asyncio.timeout_at(job.due_s):
                return await self._models.ask(job.record, job.request, job.draw.asked)
        except TimeoutError:
            return Asked("timeout", job.record.student)

    async def _skip(self, job: Job, status: ShadowStatus) -> None:
        await self._write(job, Asked(status, job.record.student), NOT_GRADED)

    def _pair(self, job: Job, text: str) -> Pair:
        delivered, answer = job.record.completion or "", storable(text)
        student, teacher = (delivered, answer) if job.draw.asked == "teacher" else (answer, delivered)
        return Pair(
            job.record.decision_id,
            job.record.tags,
            job.request.body.values,
            student,
            teacher,
            self._recent.label_of(job.record),
        )

    async def _write(self, job: Job, asked: Asked, graded: Graded) -> None:
        record, meaning = job.record, asked.meaning
        shadow = ShadowRecord(
            schema=SCHEMA_VERSION,
            decision_id=record.decision_id,
            created_s=job.created_s,
            tenant=record.tenant,
            session=record.session,
            tags=record.tags,
            student=asked.student if job.draw.asked == "student" else record.student,
            teacher=record.teacher,
            delivered="teacher" if job.draw.asked == "student" else "student",
            asked=job.draw.asked,
            propensity=job.draw.propensity,
            status=asked.status,
            completion=storable(meaning.text) if meaning and meaning.text is not None else None,
            finish_reason=meaning.finish_reason if meaning else None,
            usage=meaning.usage if meaning else None,
            cost_usd=asked.cost_usd,
            mean_logprob=meaning.mean_logprob if meaning else None,
            backend_fingerprint=storable(meaning.fingerprint) if meaning and meaning.fingerprint else None,
            latency_s=asked.latency_s,
            grades=graded.grades,
            judge_usage=graded.usage,
            judge_cost_usd=graded.cost_usd,
            predicted=job.draw.predicted,
        )
        self._metrics.observe_shadow(shadow)
        await self._log.append(encode(shadow))
        for observer in self.observers:
            observer(shadow)


def _may_be_asked(state: RequestState, record: DecisionRecord, request: ChatRequest, route: Route) -> bool:
    """Whether the request is a chat with one answer, and its client would let this model see it."""
    if not request.reviewable or request.choices != 1 or state.tenant is None or route not in state.tenant.routes:
        return False
    forced = record.decision.policy == FORCED_POLICY
    return not (forced and route == "teacher") or state.generation.document.routing.fall_back_when_student_forced


def _of_draft(job: Job) -> Asked | None:
    """The student's answer where a cascade has it already: nobody has to be asked."""
    draft = job.record.draft
    if job.draw.asked != "student" or draft is None or draft.prefix or draft.text is None:
        return None
    meaning = Meaning(draft.usage, draft.finish_reason, draft.text, mean_logprob=draft.mean_logprob)
    return Asked("ok", job.record.student, meaning, cost_usd=0.0)
