"""From the JSON of decision records to columns.

A payload is decoded by slim structs that name only what replay looks at: msgspec passes over the rest, the texts
included, at the speed of memory.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.cascade import CALLS
from policies.long_reasoning import HIGH_EFFORTS, LOW_EFFORTS
from policies.replay.columns import (
    EFFORT_HIGH,
    EFFORT_LOW,
    EFFORT_OTHER,
    FIELD_DTYPES,
    FINISH_CALL,
    FINISH_LENGTH,
    FINISH_OTHER,
    FINISH_UNKNOWN,
    NONE,
    ROUTES,
    UNKNOWN,
    Columns,
    Floats,
    TagSet,
    columns_of,
)

FORCED_POLICY = "request"
"""Stands as the policy of a decision that the client made; no document changes that."""
CACHE_HIT = "cache_hit"
"""Reason of an answer that was kept: no model was asked."""
EMPTY = "empty_answer"
"""Why a cascade escalates a draft without text."""
NOT_REVIEWED = frozenset({"/v1/completions", "/v1/embeddings"})
LINEAR_REASONS = frozenset({"multi_step", "single_step", "embedding_unavailable"})
HEAD_REASONS = frozenset({"multi_step_embedding", "single_step_embedding"})
CHECKS = 3
"""Texts of a version that are scored again."""
FOREIGN = -1
"""In place of a count of checks: the recorded scores are of other weights."""
ID_MODULUS = 2**61 - 1
CHUNK_ROWS = 8192


class _Chunk(msgspec.Struct, frozen=True, gc=False):
    score: float | None = None


class _Signals(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: int | None = None
    chunk_similarities: tuple[float, ...] | None = None


_NO_SIGNALS = _Signals()


class _Features(msgspec.Struct, frozen=True, gc=False):
    prompt_bytes: int
    message_count: int
    approx_prompt_tokens: int
    requested_output_tokens: int
    student_window_tokens: int | None = None
    last_user_turn: str = ""
    chunks: tuple[_Chunk, ...] = ()
    retrieval_attempted: bool = False
    retrieval_confidence: float | None = None
    reasoning_effort: str | None = None
    has_tools: bool = False
    has_response_format: bool = False
    has_images: bool = False
    signals: _Signals = _NO_SIGNALS


class _Decision(msgspec.Struct, frozen=True, gc=False):
    route: str
    policy: str = ""
    version: str = ""
    propensity: float = 1.0


class _Review(msgspec.Struct, frozen=True, gc=False):
    reason: str = ""


class _Vote(msgspec.Struct, frozen=True, gc=False):
    policy: str
    reason: str
    score: float | None = None


class _Usage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: int
    completion_tokens: int


class _Draft(msgspec.Struct, frozen=True, gc=False):
    text: str | None = None
    mean_logprob: float | None = None
    tokens: int = 0
    finish_reason: str | None = None
    prefix: bool = False
    cost_usd: float | None = None
    escalated: bool = False
    review: _Review | None = None


class _Record(msgspec.Struct, frozen=True, gc=False):
    """The fields of a `DecisionRecord` that replay needs, under their own names."""

    decision_id: str
    created_s: float
    endpoint: str
    stream: bool
    decision: _Decision
    reason: str
    outcome: str
    student: str
    teacher: str
    latency_s: float
    capture: str
    votes: tuple[_Vote, ...] = ()
    features: _Features | None = None
    route: str | None = None
    degraded: str | None = None
    fallback_cause: str | None = None
    finish_reason: str | None = None
    usage: _Usage | None = None
    cost_usd: float | None = None
    counterfactual_cost_usd: float | None = None
    ttft_s: float | None = None
    tenant: str = "default"
    tags: dict[str, str] = {}
    purpose: str = "traffic"
    completion: str | None = None
    mean_logprob: float | None = None
    draft: _Draft | None = None


_decode = msgspec.json.Decoder(_Record).decode


class Vocabulary:
    """What codes mean; shared by the parts of a log, so that they can be joined."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._tag_sets: dict[TagSet, int] = {}

    def name(self, name: str) -> int:
        return self._names.setdefault(name, len(self._names))

    def tag_set(self, tags: dict[str, str]) -> int:
        return self._tag_sets.setdefault(tuple(tags.items()), len(self._tag_sets))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    @property
    def tag_sets(self) -> tuple[TagSet, ...]:
        return tuple(self._tag_sets)


class ColumnsBuilder:
    """Turns payloads into columns, some thousand rows at a time."""

    def __init__(self, vocabulary: Vocabulary, score_text: Callable[[str], float] | None = None) -> None:
        """
        Args:
            vocabulary: what the columns' codes will mean.
            score_text: `long_reasoning`'s linear score, for records that do not have it: where an earlier policy
                decided. A recorded score is taken where it agrees with this on the first texts of a version.
        """
        self._vocabulary = vocabulary
        self._score_text = score_text
        self._checks: dict[str, int] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._parts: list[list[NDArray[Any]]] = []
        self._scores: list[float] = []
        self._similarities: list[float] = []
        self._ragged: tuple[list[Floats], list[Floats]] = ([], [])
        self.without_features = 0
        """Requests that were refused before the policies saw them, and embeddings."""

    def add(self, payload: bytes) -> None:
        """One decision record. Raises: msgspec.DecodeError."""
        record = _decode(payload)
        if record.features is None:
            self.without_features += 1
            return
        self._rows.append(self._row(record, record.features))
        if len(self._rows) == CHUNK_ROWS:
            self._flush()

    def build(self) -> Columns:
        """What was added, without names."""
        self._flush()
        ragged = [np.concatenate(each) if each else np.empty(0) for each in self._ragged]
        if not self._parts:
            return columns_of([np.empty(0, dtype) for dtype in FIELD_DTYPES], ragged)
        return columns_of([np.concatenate(each) for each in zip(*self._parts, strict=True)], ragged)

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = zip(*self._rows, strict=True)
        self._parts.append([np.array(c, dtype) for c, dtype in zip(columns, FIELD_DTYPES, strict=True)])
        for kept, waiting in zip(self._ragged, (self._scores, self._similarities), strict=True):
            kept.append(np.array(waiting, np.float64))
            waiting.clear()
        self._rows = []

    def _row(self, record: _Record, features: _Features) -> tuple[Any, ...]:
        """In the order of the fields of `Columns`."""
        decision, draft, usage, signals = record.decision, record.draft or _NO_DRAFT, record.usage, features.signals
        name = self._vocabulary.name
        answered = record.outcome in ("ok", "degraded") and record.route is not None
        has_text, linear, head = self._reasoning(record, features.last_user_turn)
        return (
            id_of(record.decision_id),
            record.created_s,
            name(record.purpose),
            name(record.student),
            name(record.teacher),
            name(record.tenant),
            name(decision.version),
            self._vocabulary.tag_set(record.tags),
            ROUTES.get(record.route or "", NONE),
            ROUTES[decision.route],
            decision.propensity,
            decision.policy == FORCED_POLICY,
            answered,
            record.degraded is not None or record.fallback_cause is not None,
            record.reason == CACHE_HIT,
            record.capture == "full",
            record.stream,
            record.endpoint not in NOT_REVIEWED,
            features.prompt_bytes,
            features.message_count,
            features.approx_prompt_tokens,
            features.requested_output_tokens,
            _count(features.student_window_tokens),
            _count(signals.prompt_tokens),
            features.has_tools,
            features.has_response_format,
            features.has_images,
            _effort(features.reasoning_effort),
            has_text,
            linear,
            head,
            features.retrieval_attempted,
            _number(features.retrieval_confidence),
            len(features.chunks),
            self._keep_scores(features.chunks),
            self._keep_similarities(signals.chunk_similarities),
            usage.prompt_tokens if usage is not None else UNKNOWN,
            usage.completion_tokens if usage is not None else UNKNOWN,
            _number(record.cost_usd),
            _number(record.counterfactual_cost_usd),
            _number(draft.cost_usd),
            record.latency_s,
            _number(record.ttft_s),
            _number(record.mean_logprob),
            finish_code(record.finish_reason),
            _is_empty(record.completion, record.finish_reason),
            record.draft is not None,
            _number(draft.mean_logprob),
            draft.tokens,
            finish_code(draft.finish_reason),
            _is_empty(draft.text, draft.finish_reason) or (draft.review is not None and draft.review.reason == EMPTY),
            draft.prefix,
            draft.escalated,
        )

    def _keep_scores(self, chunks: tuple[_Chunk, ...]) -> int:
        if not chunks:
            return 0
        scores = [chunk.score for chunk in chunks if chunk.score is not None]
        scores.sort(reverse=True)
        self._scores += scores
        return len(scores)

    def _keep_similarities(self, similarities: tuple[float, ...] | None) -> int:
        if similarities is None:
            return UNKNOWN
        self._similarities += sorted(similarities, reverse=True)
        return len(similarities)

    def _reasoning(self, record: _Record, text: str) -> tuple[bool, float, float]:
        """Whether there is text, and the scores of the linear model and of the embedding's head; NaN: unknown."""
        linear = head = math.nan
        for vote in record.votes:
            if vote.policy == "long_reasoning" and vote.score is not None:
                if vote.reason in LINEAR_REASONS:
                    linear = vote.score
                elif vote.reason in HEAD_REASONS:
                    head = vote.score
        if text and not text.isspace():
            if self._score_text is not None and not (not math.isnan(linear) and self._trusts(record, text, linear)):
                linear = self._score_text(text)
            return True, linear, head
        return not (math.isnan(linear) and math.isnan(head)), linear, head

    def _trusts(self, record: _Record, text: str, recorded: float) -> bool:
        """Whether scores that were recorded under this version are those of the weights at hand."""
        version = record.decision.version
        checks = self._checks.get(version, 0)
        if checks == CHECKS or self._score_text is None:
            return True
        agrees = checks != FOREIGN and abs(self._score_text(text) - recorded) < 1e-9
        self._checks[version] = checks + 1 if agrees else FOREIGN
        return agrees


_NO_DRAFT = _Draft()


def id_of(decision_id: str) -> int:
    """A decision id as a number; two of a log differ, but for one chance in 2^61 for each pair."""
    try:
        return int(decision_id, 16) % ID_MODULUS
    except ValueError:
        return int.from_bytes(hashlib.blake2b(decision_id.encode(), digest_size=8).digest()) % ID_MODULUS


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _count(value: int | None) -> int:
    return UNKNOWN if value is None else value


def _effort(stated: str | None) -> int:
    if stated is None:
        return EFFORT_OTHER
    effort = stated.strip().lower()
    return EFFORT_HIGH if effort in HIGH_EFFORTS else EFFORT_LOW if effort in LOW_EFFORTS else EFFORT_OTHER


def finish_code(reason: str | None) -> int:
    if reason is None:
        return FINISH_UNKNOWN
    return FINISH_LENGTH if reason == "length" else FINISH_CALL if reason in CALLS else FINISH_OTHER


def _is_empty(text: str | None, finish_reason: str | None) -> bool:
    return text is not None and not text.strip() and finish_reason not in CALLS
