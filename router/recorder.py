"""From what is known about a request to its `DecisionRecord`: what it says, and what of the texts may be kept."""

from __future__ import annotations

from typing import Literal

import msgspec

from policies.base import Chunk, RequestFeatures
from policies.record import SCHEMA_VERSION, CaptureLevel, DecisionRecord, Draft, Usage, strictest
from router.admission import DEFAULT_TENANT, Tenant
from router.chat import ChatRequest, storable
from router.config import TeacherConfig
from router.costs import cost_usd
from router.request_state import REJECTED, RequestState
from router.resilience.pool import Pool
from router.traffic_log import TrafficLog


class Recorder:
    """Knows the rules of the configuration."""

    def __init__(
        self,
        *,
        teacher: Pool,
        capture: CaptureLevel,
        distillation: Literal["allowed", "conditional", "denied"],
        log: TrafficLog | None,
    ) -> None:
        """
        Args:
            teacher: whose price the counterfactual cost has; the first one.
            log: names subjects by its own pseudonyms.
        """
        self._teacher = teacher
        self._capture = capture
        self._distillation = distillation
        self._log = log

    def capture_of(self, request: ChatRequest) -> CaptureLevel:
        """What may be kept of a request."""
        return request.capture(self._capture)

    def _capture_unparsed(self, tenant: Tenant | None) -> CaptureLevel:
        return strictest(self._capture, "metadata", tenant.capture if tenant is not None else "full")

    def record(self, state: RequestState, now_s: float) -> DecisionRecord:
        """The record of a request that has ended."""
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
