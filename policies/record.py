"""`DecisionRecord`: the one line that every request leaves behind, read by the router, replay and the trainer."""

from __future__ import annotations

from typing import Literal

import msgspec

from policies.base import RequestFeatures, Route, RouteDecision
from policies.chain import Vote

SCHEMA_VERSION = 1

CaptureLevel = Literal["none", "metadata", "full"]
CAPTURE_LEVELS: tuple[CaptureLevel, ...] = ("none", "metadata", "full")
"""From the strictest to the one that keeps most."""
StatedPurpose = Literal["traffic", "eval", "shadow", "judge", "canary"]
"""What a client may say that a request is for."""
Purpose = Literal[StatedPurpose, "embedding"]
"""Only `traffic` can ever become training data. `embedding`: a request to /v1/embeddings, which no policy routes."""
Outcome = Literal["ok", "degraded", "client_error", "backend_error", "client_disconnected", "timeout", "rejected"]


def strictest(*levels: CaptureLevel) -> CaptureLevel:
    """Which of several wishes about capture wins."""
    return min(levels, key=CAPTURE_LEVELS.index)


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens as the backend counted them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class TokenIds(msgspec.Struct, frozen=True, kw_only=True):
    """Token ids as the backend counted them: text is never tokenized again for training."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    """With the stop token, where the model ended by itself."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A student's answer that a cascade has judged, delivered or not."""

    text: str | None = None
    """Only at capture level `full`."""
    mean_logprob: float | None = None
    """Over the tokens of the answer without its stop token, nats; None when the backend gave none."""
    tokens: int = 0
    """Completion tokens, the stop token included."""
    finish_reason: str | None = None
    prefix: bool = False
    """Only the beginning of a stream was judged: text, mean and tokens are those of its first part."""
    usage: Usage | None = None
    """As the backend counted; of a stream that had not told it, all tokens that came and the estimate of the prompt."""
    cost_usd: float | None = None
    """What the draft cost; part of the record's `cost_usd` as well, unless that is unknown. When the client leaves
    while the teacher is asked, it is all that is known."""
    escalated: bool = False
    review: RouteDecision | None = None
    """The decision of the reviewing policy, with score and threshold; None when all of them abstained."""


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request, from its features to its outcome. Durations in seconds, money in USD.

    `cost_usd` and `counterfactual_cost_usd` are None when a price or the usage is unknown: unreported is not 0.
    The counterfactual is what the teacher would have charged for the same token counts.
    """

    schema: int
    """SCHEMA_VERSION of the writer."""
    decision_id: str
    created_s: float
    """Unix time at which the request arrived."""
    endpoint: str
    stream: bool
    requested_model: str
    decision: RouteDecision
    """What the policies chose."""
    votes: tuple[Vote, ...] = ()
    features: RequestFeatures | None = None
    """Texts are emptied below capture level `full`."""
    route: Route | None = None
    """The backend that produced the answer; None when none did."""
    reason: str
    """The decision's reason, or `fallback_<cause>`."""
    degraded: str | None = None
    fallback_cause: str | None = None
    status: int
    outcome: Outcome
    error_code: str | None = None
    finish_reason: str | None = None
    student: str
    """Student bundle id, before bundles the model name."""
    teacher: str
    usage: Usage | None = None
    cost_usd: float | None = None
    counterfactual_cost_usd: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    """Mean time per output token after the first."""
    latency_s: float
    overhead_s: float
    """Time from the end of the request body to the call of the backend."""
    tenant: str = "default"
    session: str | None = None
    tags: dict[str, str] = {}
    purpose: Purpose = "traffic"
    capture: CaptureLevel
    distillation: Literal["allowed", "conditional", "denied"] = "denied"
    """The teacher's licence flag at the time of the request."""
    request: str | None = None
    """The request body, a JSON text, exactly as the client sent it; only at capture level `full`."""
    completion: str | None = None
    """The answer's text; only at capture level `full`."""
    token_ids: TokenIds | None = None
    """Of the answer; only at capture level `full`, where the backend gives them and the answer has one choice."""
    backend_fingerprint: str | None = None
    """`system_fingerprint` and `model` of the answer, as the backend states them."""
    mean_logprob: float | None = None
    """Of the answer's tokens without the stop token, where it was asked for."""
    draft: Draft | None = None
    """The student's answer that a cascade reviewed."""


class FeedbackRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="feedback"):
    """A judgement on an answer, joined to its `DecisionRecord` by `decision_id`; the last one of a kind counts."""

    schema: int
    decision_id: str
    created_s: float
    tenant: str = "default"
    score: float | None = None
    """In [0, 1]: 1 = good."""
    label: str | None = None
    """The right answer as the label of a task, in the form that a grader compares."""
    correction: str | None = None
    """A better answer by a human; training prefers it to the teacher's tokens."""
    source: str = ""
    """Who judged: `human`, `user`, `grader`, ..."""


encode = msgspec.json.Encoder().encode
_decision = msgspec.json.Decoder(DecisionRecord).decode
_feedback = msgspec.json.Decoder(FeedbackRecord).decode
_FEEDBACK_PREFIX = b'{"kind":"feedback"'
decode = _decision


def decode_any(payload: bytes) -> DecisionRecord | FeedbackRecord:
    """One record of a traffic log. Raises: msgspec.DecodeError (a ValidationError among them)."""
    return _feedback(payload) if payload.startswith(_FEEDBACK_PREFIX) else _decision(payload)
