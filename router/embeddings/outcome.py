"""The end of a request for embeddings: its `DecisionRecord`, its metrics, and what its tenant is charged.

No policy has decided anything, and neither model has answered: the record has no route and no features. It never holds
a text, whatever the capture level, and its purpose keeps it out of everything that learns from the log.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from policies.base import RouteDecision
from policies.record import SCHEMA_VERSION, CaptureLevel, DecisionRecord, Outcome, Usage, encode, strictest
from router.admission import DEFAULT_TENANT, Permit, Tenant
from router.chat import storable, subject_in
from router.config import Config
from router.embeddings.request import EmbeddingRequest
from router.errors import ShuttingDown
from router.generations import Generation
from router.logs import log_access
from router.metrics import Metrics
from router.traffic_log import TrafficLog

if TYPE_CHECKING:
    from router.telemetry.embeddings import EmbeddingTrace

PATH = "/v1/embeddings"
REASON = "embeddings"
NOT_ROUTED = RouteDecision(route="student", reason=REASON, policy="request")
"""Stands in a record for a decision that nobody had to make."""
PERHAPS_USED: frozenset[Outcome] = frozenset({"ok", "timeout", "client_disconnected"})
"""The model may have done its work although nobody says how much; what was reserved is charged."""


@dataclass(slots=True, weakref_slot=True)
class EmbeddingState:
    """What is known about a request so far. Times are monotonic, but for `created_s`."""

    decision_id: str
    started_s: float
    generation: Generation
    created_s: float = field(default_factory=time.time)
    tenant: Tenant | None = None
    permit: Permit | None = None
    request: EmbeddingRequest | None = None
    body_read_s: float | None = None
    called_s: float | None = None
    status: int = 500
    outcome: Outcome = "backend_error"
    error_code: str | None = None
    tokens: int | None = None
    """Of the texts, as the model counted them."""
    record: DecisionRecord | None = None
    """Once it is settled."""
    trace: EmbeddingTrace | None = None

    @property
    def route(self) -> None:
        """No policy routes it."""
        return None


class EmbeddingOutcomes:
    """Turns what is known about a request into its record, and delivers that."""

    def __init__(self, config: Config, metrics: Metrics, log: TrafficLog | None) -> None:
        self._capture = strictest(config.log.capture, "metadata")
        self._teacher = config.teacher.model
        self._price_usd = config.embeddings.price_usd_per_1m_input_tokens if config.embeddings else None
        self._metrics = metrics
        self._log = log
        self._access_log = config.server.access_log

    def capture_of(self, state: EmbeddingState) -> CaptureLevel:
        """`metadata` or `none`."""
        levels = [self._capture]
        if state.tenant is not None:
            levels.append(state.tenant.capture)
        if state.request is not None and state.request.directives.train is not None:
            levels.append(state.request.directives.train)
        return strictest(*levels)

    def cost_usd(self, tokens: int) -> float | None:
        """None: the price is unknown."""
        return None if self._price_usd is None else tokens * self._price_usd / 1e6

    async def settle(self, state: EmbeddingState) -> None:
        """Write the record, once; to be awaited before the last byte of the answer. A full disk does not raise."""
        if state.record is not None:
            return
        record = state.record = self._record(state)
        self._metrics.observe_embedding(record)
        if self._access_log:
            log_access(record, "embeddings")
        if state.permit is not None:
            tokens = self._used_tokens(state)
            await state.permit.settle(tokens=tokens, cost_usd=None if tokens is None else self.cost_usd(tokens))
        if self._log is not None and record.capture != "none":
            await self._log.append(encode(record))

    def _record(self, state: EmbeddingState) -> DecisionRecord:
        now_s = time.monotonic()
        request, tenant = state.request, state.tenant
        directives = request.directives if request is not None else None
        own_tags = tenant.tags if tenant is not None else {}
        tags = {**own_tags, **((directives.tags if directives else None) or {})}
        session = directives.session if directives else None
        start_s = state.body_read_s if state.body_read_s is not None else state.started_s
        return DecisionRecord(
            schema=SCHEMA_VERSION,
            decision_id=state.decision_id,
            created_s=state.created_s,
            endpoint=PATH,
            stream=False,
            requested_model=storable(request.model)[:256] if request is not None else "",
            decision=NOT_ROUTED,
            reason=REASON,
            status=state.status,
            outcome=state.outcome,
            error_code=state.error_code,
            student=state.generation.bundle_id,
            teacher=self._teacher,
            usage=None if state.tokens is None else Usage(prompt_tokens=state.tokens, completion_tokens=0),
            cost_usd=None if state.tokens is None else self.cost_usd(state.tokens),
            latency_s=now_s - state.started_s,
            overhead_s=(state.called_s if state.called_s is not None else now_s) - start_s,
            tenant=tenant.name if tenant is not None else DEFAULT_TENANT,
            session=storable(session) if session else None,
            subject=self._log.subject_of(subject_in(request.body.values)) if self._log and request else None,
            tags={storable(key): storable(value) for key, value in tags.items()},
            purpose="embedding",
            capture=self.capture_of(state),
        )

    def _used_tokens(self, state: EmbeddingState) -> int | None:
        """What the tenant is charged for; None: nobody knows, what was reserved stands."""
        if state.called_s is None:
            return 0
        if state.tokens is not None:
            return state.tokens
        perhaps = state.outcome in PERHAPS_USED or state.error_code == ShuttingDown.code
        return None if perhaps else 0
