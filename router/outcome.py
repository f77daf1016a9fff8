"""The end of a request: one `DecisionRecord` on every exit path, to the metrics and to the traffic log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

from policies.base import Chunk, RequestFeatures, Route, RouteDecision
from policies.chain import Evaluation, Vote
from policies.record import (
    SCHEMA_VERSION,
    CaptureLevel,
    DecisionRecord,
    Draft,
    Outcome,
    TokenIds,
    Usage,
    encode,
    strictest,
)
from router.admission import DEFAULT_TENANT, Permit, Tenant
from router.answers import Meaning
from router.backends import Backend
from router.chat import ChatRequest, storable
from router.config import TeacherConfig
from router.costs import cost_usd, used
from router.decision_ids import with_route
from router.dialects.base import Dialect
from router.generations import Generation
from router.logs import log_access
from router.machine import MachineUse
from router.metrics import Metrics
from router.resilience.attempts import Attempt
from router.resilience.deadline import Deadline
from router.resilience.pool import Pool
from router.resilience.watcher import Watcher
from router.response_cache import CachedAnswer
from router.traffic_log import TrafficLog

if TYPE_CHECKING:
    from router.governance.governance import Governance
    from router.telemetry.trace import RequestTrace

logger = logging.getLogger(__name__)

CACHE_HIT = "cache_hit"
"""Reason of an answer that was kept."""
REJECTED = RouteDecision(route="student", reason="rejected", policy="request")
"""Stands in a record for the decision on a request that was refused before the policies saw it."""


@dataclass(slots=True, weakref_slot=True)
class RequestState:
    """What is known about a request so far. Filled on the way, turned into the record at the end."""

    decision_id: str
    started_s: float
    """Monotonic, like every time in here but `created_s`."""
    dialect: Dialect
    generation: Generation
    created_s: float = field(default_factory=time.time)
    tenant: Tenant | None = None
    """None: not known yet, or nobody's."""
    permit: Permit | None = None
    request: ChatRequest | None = None
    evaluation: Evaluation | None = None
    body_read_s: float | None = None
    called_s: float | None = None
    """When the first backend was called."""
    backend: Backend | None = None
    """Whose answer it is, or whom it is asked of."""
    reason: str = "rejected"
    degraded: str | None = None
    fallback_cause: str | None = None
    status: int = 500
    outcome: Outcome = "backend_error"
    error_code: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    streamed_events: int = 0
    first_event_s: float | None = None
    last_event_s: float | None = None
    completion: str | None = None
    fingerprint: str | None = None
    mean_logprob: float | None = None
    token_ids: TokenIds | None = None
    draft: Draft | None = None
    """The student's answer that reviewers have judged, with its text."""
    deadline: Deadline | None = None
    """When the request as a whole must have been answered."""
    cache_key: str | None = None
    """What the answer may be kept under."""
    cached: CachedAnswer | None = None
    """The answer, where no backend was asked for it."""
    settled: bool = False
    watchers: tuple[Watcher, ...] = ()
    """Who is told of the attempts."""
    machine: MachineUse | None = None
    """What they take of the student's machines; None: nothing is known of their price."""

    shadow_votes: asyncio.Task[tuple[Vote, ...]] | None = None
    """Policies in shadow are being asked."""
    trace: RequestTrace | None = None
    record: DecisionRecord | None = None
    """How it ended, once it is written."""
    decided_s: float | None = None
    """When the policies had decided."""

    def measure_machine(self) -> None:
        self.machine = MachineUse()
        self.watchers = (*self.watchers, self.machine)

    @property
    def machine_usd(self) -> float | None:
        return self.machine.usd if self.machine is not None else None

    @property
    def machine_priced(self) -> bool:
        """Whether the student costs what its machine does, since it has no token prices."""
        return self.machine is not None and self.generation.student.price is None

    @property
    def route(self) -> Route | None:
        if self.cached is not None:
            return self.cached.route
        if self.backend is None or self.backend.route == "embeddings":
            return None
        return self.backend.route

    @property
    def policy(self) -> str:
        """Who chose the route: the reviewer that escalated, else the policy before generation."""
        if self.draft is not None and self.draft.escalated and self.draft.review is not None:
            return self.draft.review.policy
        return self.evaluation.decision.policy if self.evaluation else REJECTED.policy

    def name_route(self) -> None:
        """From now on the id says who answers, for feedback; of requests that count as traffic."""
        if self.request is not None and self.request.directives.purpose in (None, "traffic"):
            self.decision_id = with_route(self.decision_id, self.route)

    def take_cached(self, answer: CachedAnswer) -> None:
        """This answer will be delivered. Its text is in the record of the request that it was written for."""
        self.cached, self.reason = answer, CACHE_HIT
        self.status, self.outcome, self.finish_reason = 200, "ok", answer.finish_reason

    def take(self, attempt: Attempt) -> None:
        """This attempt is under way, or has answered."""
        self.backend, self.degraded = attempt.backend, attempt.degraded
        if attempt.reason is not None:
            self.reason, self.fallback_cause = attempt.reason, attempt.cause

    def cut(self, limit_s: float) -> float:
        """A phase's limit, shortened to what is left of the request's time."""
        return self.deadline.cut(limit_s) if self.deadline is not None else limit_s

    def note_call(self) -> None:
        """A backend is about to be called."""
        if self.called_s is None:
            self.called_s = time.monotonic()

    def note(self, meaning: Meaning) -> None:
        """This plain answer will be delivered."""
        self.usage, self.finish_reason, self.completion = meaning.usage, meaning.finish_reason, meaning.text
        self.fingerprint, self.mean_logprob = meaning.fingerprint, meaning.mean_logprob
        self.token_ids = meaning.token_ids


Observer = Callable[[RequestState, DecisionRecord], None]


class Outcomes:
    """Turns what is known about a request into its record, and delivers that."""

    def __init__(
        self,
        *,
        teacher: Pool,
        metrics: Metrics,
        log: TrafficLog | None,
        capture: CaptureLevel,
        distillation: Literal["allowed", "conditional", "denied"],
        observers: Sequence[Observer] = (),
        access_log: bool = False,
        governance: Governance | None = None,
    ) -> None:
        """
        Args:
            governance: is told of every request under a document with governors or shadows.
            access_log: write a line for each request to the process's own log.
            observers: are told of every request whose record is in the log; they return at once.
        """
        self._teacher = teacher
        self._metrics = metrics
        self._log = log
        self._capture = capture
        self._distillation = distillation
        self._observers = tuple(observers)
        self._access_log = access_log
        self._governance = governance

    def capture_of(self, request: ChatRequest) -> CaptureLevel:
        """What may be kept of a request."""
        return request.capture(self._capture)

    def _capture_unparsed(self, tenant: Tenant | None) -> CaptureLevel:
        return strictest(self._capture, "metadata", tenant.capture if tenant is not None else "full")

    def price_usd(self, usage: Usage, route: Route, generation: Generation) -> float | None:
        """What the model that was chosen would charge; None: its price is unknown."""
        price = (generation.student if route == "student" else self._teacher).price
        return price.cost_usd(usage) if price is not None else None

    def captures_text(self, request: ChatRequest) -> bool:
        return self._log is not None and self.capture_of(request) == "full"

    async def settle(self, state: RequestState, now_s: float) -> None:
        """Write the record, once; to be awaited before the last byte of the answer. A full disk does not raise."""
        if state.settled:
            return
        state.settled = True
        if state.shadow_votes is not None:
            _take_votes(state, state.shadow_votes)
        if state.machine is not None:
            state.machine.close()
        try:
            record = self._record(state, now_s)
            payload = encode(record)
        except Exception as exc:  # noqa: BLE001 - see below
            # Something in the request cannot be written down. It still gets its record, without texts and votes.
            logger.error("record %s is reduced: %s", state.decision_id, type(exc).__name__)
            state.request = state.evaluation = state.completion = state.draft = None
            record = self._record(state, now_s)
            payload = encode(record)
        state.record = record
        if self._access_log:
            log_access(record, state.policy)
        self._metrics.observe(record)
        self._govern(state, record)
        if state.permit is not None:
            tokens, spent_usd = used(state)
            await state.permit.settle(tokens=tokens, cost_usd=spent_usd)
        if self._log is not None and record.capture != "none" and await self._log.append(payload):
            for observe in self._observers:
                try:
                    observe(state, record)
                except Exception:  # whoever looks on, the client gets its answer
                    logger.exception("an observer of answered requests failed")

    def _govern(self, state: RequestState, record: DecisionRecord) -> None:
        if self._governance is not None and state.generation.decider.is_governed:
            self._governance.settle(state, record)

    def _record(self, state: RequestState, now_s: float) -> DecisionRecord:
        request, evaluation = state.request, state.evaluation
        capture = self.capture_of(request) if request else self._capture_unparsed(state.tenant)
        full = capture == "full"
        usage = state.usage
        answered = state.cached.usage if state.cached is not None else _asked_once(state, usage)
        teacher_price = self._teacher.price
        route = state.route
        # The teacher that answered, else the first one.
        teacher = (state.backend if state.backend is not None and route == "teacher" else self._teacher).config
        licence = teacher.distillation if isinstance(teacher, TeacherConfig) else self._distillation
        return DecisionRecord(
            schema=SCHEMA_VERSION,
            decision_id=state.decision_id,
            created_s=state.created_s,
            endpoint=state.dialect.path,
            stream=request.stream if request else False,
            requested_model=storable(request.model)[:256] if request else "",
            decision=evaluation.decision if evaluation else REJECTED,
            votes=evaluation.votes if evaluation else (),
            features=_kept(evaluation.features, full) if evaluation else None,
            route=route,
            reason=state.reason,
            degraded=state.degraded,
            fallback_cause=state.fallback_cause,
            status=state.status,
            outcome=state.outcome,
            error_code=state.error_code,
            finish_reason=state.finish_reason,
            student=state.generation.bundle_id,
            teacher=teacher.model,
            usage=usage,
            cost_usd=cost_usd(state),
            machine_usd=state.machine_usd,
            machine_priced=state.machine_priced,
            counterfactual_cost_usd=teacher_price.cost_usd(answered) if teacher_price and answered else None,
            ttft_s=state.first_event_s - state.started_s if state.first_event_s is not None else None,
            tpot_s=_tpot_s(state),
            latency_s=now_s - state.started_s,
            overhead_s=_overhead_s(state, now_s),
            tenant=state.tenant.name if state.tenant is not None else DEFAULT_TENANT,
            session=evaluation.features.session if evaluation else None,
            subject=self._log.subject_of(request.subject()) if self._log is not None and request else None,
            tags=evaluation.features.tags if evaluation else {},
            purpose=(request.directives.purpose if request else None) or "traffic",
            capture=capture,
            distillation=licence,
            request=request.body.text if request and full else None,
            completion=storable(state.completion) if full and state.completion is not None else None,
            token_ids=state.token_ids if full else None,
            backend_fingerprint=storable(state.fingerprint) if state.fingerprint else None,
            mean_logprob=state.mean_logprob,
            draft=_kept_draft(state, full) if state.draft else None,
        )


def _asked_once(state: RequestState, usage: Usage | None) -> Usage | None:
    """What one model alone would have used: of an answer that two wrote, the prompt counts once."""
    draft = state.draft
    if usage is None or draft is None or draft.continued is None or draft.usage is None:
        return usage
    return Usage(prompt_tokens=draft.usage.prompt_tokens, completion_tokens=usage.completion_tokens)


def _take_votes(state: RequestState, asked: asyncio.Task[tuple[Vote, ...]]) -> None:
    """The votes in shadow, of policies that have answered by now: nobody waits for them."""
    state.shadow_votes = None
    if not asked.done():
        asked.cancel()
    elif not asked.cancelled() and state.evaluation is not None:
        state.evaluation = msgspec.structs.replace(state.evaluation, votes=state.evaluation.votes + asked.result())


def expected_usage(features: RequestFeatures, choices: int) -> Usage:
    """What a request may use at most, as far as can be told before it is answered."""
    completion_tokens = features.requested_output_tokens * choices
    return Usage(prompt_tokens=features.approx_prompt_tokens, completion_tokens=completion_tokens)


def _kept(features: RequestFeatures, full: bool) -> RequestFeatures:
    """The features for the log. Below `full` no text stays, and an embedding never does: it can give text away."""
    if features.signals.prompt_embedding is not None:
        signals = msgspec.structs.replace(features.signals, prompt_embedding=None)
        features = msgspec.structs.replace(features, signals=signals)
    if full:
        return features
    chunks = tuple(Chunk(text="", score=chunk.score, id=None) for chunk in features.chunks)
    return msgspec.structs.replace(features, last_user_turn="", chunks=chunks)


def _kept_draft(state: RequestState, full: bool) -> Draft:
    draft = state.draft
    assert draft is not None  # noqa: S101 - asked for one
    text = storable(draft.text) if full and draft.text is not None else None
    draft_usd = state.machine_usd if state.machine_priced else draft.cost_usd
    return msgspec.structs.replace(draft, text=text, cost_usd=draft_usd)


def _overhead_s(state: RequestState, now_s: float) -> float:
    start_s = state.body_read_s if state.body_read_s is not None else state.started_s
    return (state.called_s if state.called_s is not None else now_s) - start_s


def _tpot_s(state: RequestState) -> float | None:
    if state.usage is None or state.first_event_s is None or state.last_event_s is None:
        return None
    gaps = state.usage.completion_tokens - 1
    return (state.last_event_s - state.first_event_s) / gaps if gaps > 0 else None
