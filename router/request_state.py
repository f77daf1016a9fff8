"""What is known about a request so far: filled on the way by whoever learns it, turned into the record at the end."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from policies.base import Route, RouteDecision
from policies.chain import Evaluation, Vote
from policies.record import DecisionRecord, Draft, Outcome, TokenIds, Usage
from router.admission import Permit, Tenant
from router.answers import Meaning
from router.backends import Backend
from router.chat import ChatRequest
from router.decision_ids import with_route
from router.dialects.base import Dialect
from router.generations import Generation
from router.machine import MachineUse
from router.resilience.attempts import Attempt
from router.resilience.deadline import Deadline
from router.resilience.watcher import Watcher
from router.response_cache import CachedAnswer

if TYPE_CHECKING:
    from router.telemetry.trace import RequestTrace

CACHE_HIT = "cache_hit"
"""Reason of an answer that was kept."""
REJECTED = RouteDecision(route="student", reason="rejected", policy="request")
"""Stands in a record for the decision on a request that was refused before the policies saw it."""


@dataclass(slots=True, weakref_slot=True)
class RequestState:
    """One request."""

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
