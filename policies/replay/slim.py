"""Records as replay decodes them: what it looks at, under its own names in policies/record.py.

msgspec passes over the rest, the texts included, at the speed of memory.
"""

from __future__ import annotations

import msgspec


class Chunk(msgspec.Struct, frozen=True, gc=False):
    score: float | None = None


class Signals(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: int | None = None
    chunk_similarities: tuple[float, ...] | None = None


_NO_SIGNALS = Signals()


class Features(msgspec.Struct, frozen=True, gc=False):
    prompt_bytes: int
    message_count: int
    approx_prompt_tokens: int
    requested_output_tokens: int
    student_window_tokens: int | None = None
    last_user_turn: str = ""
    chunks: tuple[Chunk, ...] = ()
    retrieval_attempted: bool = False
    retrieval_confidence: float | None = None
    reasoning_effort: str | None = None
    has_tools: bool = False
    has_response_format: bool = False
    has_images: bool = False
    signals: Signals = _NO_SIGNALS


class Decision(msgspec.Struct, frozen=True, gc=False):
    route: str
    policy: str = ""
    version: str = ""
    propensity: float = 1.0


class Review(msgspec.Struct, frozen=True, gc=False):
    reason: str = ""
    propensity: float = 1.0


class Vote(msgspec.Struct, frozen=True, gc=False):
    policy: str
    reason: str
    score: float | None = None
    shadow: bool = False


class Usage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: int
    completion_tokens: int


class DraftSignals(msgspec.Struct, frozen=True, gc=False):
    failed: tuple[str, ...] | None = None
    agreement: float | None = None
    prefix_means: tuple[float, ...] = ()


class Late(msgspec.Struct, frozen=True, gc=False):
    action: str = ""


class Held(msgspec.Struct, frozen=True, gc=False):
    late: Late | None = None


class Draft(msgspec.Struct, frozen=True, gc=False):
    text: str | None = None
    mean_logprob: float | None = None
    tokens: int = 0
    finish_reason: str | None = None
    prefix: bool = False
    cost_usd: float | None = None
    escalated: bool = False
    review: Review | None = None
    signals: DraftSignals | None = None
    window: Held | None = None


class Record(msgspec.Struct, frozen=True, gc=False):
    """The fields of a `DecisionRecord` that replay needs."""

    decision_id: str
    created_s: float
    endpoint: str
    stream: bool
    decision: Decision
    reason: str
    outcome: str
    student: str
    teacher: str
    latency_s: float
    capture: str
    votes: tuple[Vote, ...] = ()
    features: Features | None = None
    route: str | None = None
    degraded: str | None = None
    fallback_cause: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    cost_usd: float | None = None
    counterfactual_cost_usd: float | None = None
    ttft_s: float | None = None
    tenant: str = "default"
    tags: dict[str, str] = {}
    purpose: str = "traffic"
    completion: str | None = None
    mean_logprob: float | None = None
    draft: Draft | None = None


NO_DRAFT = Draft()
decode = msgspec.json.Decoder(Record).decode
