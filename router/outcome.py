"""The end of a request: one `DecisionRecord` on every exit path, to the metrics and to the traffic log."""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from policies.base import Chunk, RequestFeatures, Route, RouteDecision
from policies.chain import Evaluation
from policies.record import SCHEMA_VERSION, CaptureLevel, DecisionRecord, Outcome, Usage, encode, strictest
from router.backends import Backend
from router.chat import ChatRequest, storable
from router.metrics import Metrics
from router.traffic_log import TrafficLog

logger = logging.getLogger(__name__)

REJECTED = RouteDecision(route="student", reason="rejected", policy="request")
"""Stands in a record for the decision on a request that was refused before the policies saw it."""


@dataclass(slots=True)
class Draft:
    """What is known about a request so far. Filled on the way, turned into the record at the end."""

    decision_id: str
    started_s: float
    """Monotonic, like every time in here but `created_s`."""
    endpoint: str
    created_s: float = field(default_factory=time.time)
    tenant: str = "default"
    request: ChatRequest | None = None
    evaluation: Evaluation | None = None
    body_read_s: float | None = None
    called_s: float | None = None
    """When the first backend was called."""
    route: Route | None = None
    reason: str = "rejected"
    degraded: str | None = None
    fallback_cause: str | None = None
    status: int = 500
    outcome: Outcome = "backend_error"
    error_code: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    first_event_s: float | None = None
    last_event_s: float | None = None
    completion: str | None = None
    settled: bool = False


class DecisionIds:
    """Unique ids: 96 random bits a process, and a counter."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(12)
        self._count = itertools.count()

    def next(self) -> str:
        return f"{self._prefix}{next(self._count):08x}"


class Outcomes:
    """Turns drafts into records and delivers them."""

    def __init__(
        self,
        *,
        student: Backend,
        teacher: Backend,
        metrics: Metrics,
        log: TrafficLog | None,
        capture: CaptureLevel,
        distillation: Literal["allowed", "conditional", "denied"],
    ) -> None:
        self._backends = {"student": student, "teacher": teacher}
        self._metrics = metrics
        self._log = log
        self._capture = capture
        self._distillation = distillation

    def captures_text(self, request: ChatRequest) -> bool:
        return self._log is not None and request.capture(self._capture) == "full"

    async def settle(self, draft: Draft, now_s: float) -> None:
        """Write the record, once; to be awaited before the last byte of the answer. A full disk does not raise."""
        if draft.settled:
            return
        draft.settled = True
        try:
            record = self._record(draft, now_s)
            payload = encode(record)
        except Exception as exc:  # noqa: BLE001 - see below
            # Something in the request cannot be written down. It still gets its record, without texts and votes.
            logger.error("record %s is reduced: %s", draft.decision_id, type(exc).__name__)
            draft.request = draft.evaluation = draft.completion = None
            record = self._record(draft, now_s)
            payload = encode(record)
        self._metrics.observe(record)
        if self._log is not None and record.capture != "none":
            await self._log.append(payload)

    def _record(self, draft: Draft, now_s: float) -> DecisionRecord:
        request, evaluation = draft.request, draft.evaluation
        capture = request.capture(self._capture) if request else strictest(self._capture, "metadata")
        full = capture == "full"
        usage = draft.usage
        answered = self._backends[draft.route].price if draft.route else None
        teacher_price = self._backends["teacher"].price
        return DecisionRecord(
            schema=SCHEMA_VERSION,
            decision_id=draft.decision_id,
            created_s=draft.created_s,
            endpoint=draft.endpoint,
            stream=request.stream if request else False,
            requested_model=storable(request.model)[:256] if request else "",
            decision=evaluation.decision if evaluation else REJECTED,
            votes=evaluation.votes if evaluation else (),
            features=_kept(evaluation.features, full) if evaluation else None,
            route=draft.route,
            reason=draft.reason,
            degraded=draft.degraded,
            fallback_cause=draft.fallback_cause,
            status=draft.status,
            outcome=draft.outcome,
            error_code=draft.error_code,
            finish_reason=draft.finish_reason,
            student=self._backends["student"].config.model,
            teacher=self._backends["teacher"].config.model,
            usage=usage,
            cost_usd=answered.cost_usd(usage) if answered and usage else None,
            counterfactual_cost_usd=teacher_price.cost_usd(usage) if teacher_price and usage else None,
            ttft_s=draft.first_event_s - draft.started_s if draft.first_event_s is not None else None,
            tpot_s=_tpot_s(draft),
            latency_s=now_s - draft.started_s,
            overhead_s=_overhead_s(draft, now_s),
            tenant=draft.tenant,
            session=evaluation.features.session if evaluation else None,
            tags=evaluation.features.tags if evaluation else {},
            capture=capture,
            distillation=self._distillation,
            request=request.body.text if request and full else None,
            completion=storable(draft.completion) if full and draft.completion is not None else None,
        )


def _kept(features: RequestFeatures, full: bool) -> RequestFeatures:
    """The features for the log. Below `full` no text stays, and an embedding never does: it can give text away."""
    if features.signals.prompt_embedding is not None:
        signals = msgspec.structs.replace(features.signals, prompt_embedding=None)
        features = msgspec.structs.replace(features, signals=signals)
    if full:
        return features
    chunks = tuple(Chunk(text="", score=chunk.score, id=None) for chunk in features.chunks)
    return msgspec.structs.replace(features, last_user_turn="", chunks=chunks)


def _overhead_s(draft: Draft, now_s: float) -> float:
    start_s = draft.body_read_s if draft.body_read_s is not None else draft.started_s
    return (draft.called_s if draft.called_s is not None else now_s) - start_s


def _tpot_s(draft: Draft) -> float | None:
    if draft.usage is None or draft.first_event_s is None or draft.last_event_s is None:
        return None
    gaps = draft.usage.completion_tokens - 1
    return (draft.last_event_s - draft.first_event_s) / gaps if gaps > 0 else None
