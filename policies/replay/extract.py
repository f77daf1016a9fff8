"""From the JSON of decision records to columns."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.drafts.validity import CALLS
from policies.drafts.validity import CHECKS as VALIDITY_CHECKS
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
from policies.replay.slim import NO_DRAFT, Chunk, Draft, DraftSignals, Features, Record, decode

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


class ColumnsBuilder:
    """Turns payloads into columns, some thousand rows at a time."""

    def __init__(self, score_text: Callable[[str], float] | None = None) -> None:
        """
        Args:
            score_text: `long_reasoning`'s linear score, for records that do not have it: where an earlier policy
                decided. A recorded score is taken where it agrees with this on the first texts of a version.
        """
        self._names: dict[str, int] = {}
        self._tag_sets: dict[TagSet, int] = {}
        self._score_text = score_text
        self._checks: dict[str, int] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._parts: list[list[NDArray[Any]]] = []
        self._scores: list[float] = []
        self._similarities: list[float] = []
        self._prefix_means: list[float] = []
        self._ragged: tuple[list[Floats], ...] = ([], [], [])

    def add(self, payload: bytes) -> None:
        """One decision record. Requests that were refused before the policies saw them, and embeddings, have no row.

        Raises: msgspec.DecodeError.
        """
        record = decode(payload)
        if record.features is None:
            return
        self._rows.append(self._row(record, record.features))
        if len(self._rows) == CHUNK_ROWS:
            self._flush()

    def build(self) -> Columns:
        """What was added."""
        self._flush()
        ragged = [np.concatenate(each) if each else np.empty(0) for each in self._ragged]
        rows = [np.concatenate(each) for each in zip(*self._parts, strict=True)]
        rows = rows or [np.empty(0, dtype) for dtype in FIELD_DTYPES]
        return columns_of(rows, ragged, tuple(self._names), tuple(self._tag_sets))

    def _name(self, name: str) -> int:
        return self._names.setdefault(name, len(self._names))

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = zip(*self._rows, strict=True)
        self._parts.append([np.array(c, dtype) for c, dtype in zip(columns, FIELD_DTYPES, strict=True)])
        for kept, waiting in zip(self._ragged, (self._scores, self._similarities, self._prefix_means), strict=True):
            kept.append(np.array(waiting, np.float64))
            waiting.clear()
        self._rows = []

    def _row(self, record: Record, features: Features) -> tuple[Any, ...]:
        """In the order of the fields of `Columns`."""
        decision, draft, usage, signals = record.decision, record.draft or NO_DRAFT, record.usage, features.signals
        name = self._name
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
            self._tag_sets.setdefault(tuple(record.tags.items()), len(self._tag_sets)),
            ROUTES.get(record.route or "", NONE),
            ROUTES[decision.route],
            decision.propensity,
            draft.review.propensity if draft.review is not None else 1.0,
            decision.policy == FORCED_POLICY,
            answered,
            record.degraded is not None or record.fallback_cause is not None,
            _is_continued(draft),
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
            failed_bits(draft.signals),
            _number(draft.signals.agreement if draft.signals is not None else None),
            self._keep_prefix_means(draft.signals),
        )

    def _keep_prefix_means(self, signals: DraftSignals | None) -> int:
        means = signals.prefix_means if signals is not None else ()
        self._prefix_means += means
        return len(means)

    def _keep_scores(self, chunks: tuple[Chunk, ...]) -> int:
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

    def _reasoning(self, record: Record, text: str) -> tuple[bool, float, float]:
        """Whether there is text, and the scores of the linear model and of the embedding's head; NaN: unknown."""
        linear = head = math.nan
        for vote in record.votes:
            if vote.policy == "long_reasoning" and vote.score is not None and not vote.shadow:
                if vote.reason in LINEAR_REASONS:
                    linear = vote.score
                elif vote.reason in HEAD_REASONS:
                    head = vote.score
        if text and not text.isspace():
            if self._score_text is not None and not (not math.isnan(linear) and self._trusts(record, text, linear)):
                linear = self._score_text(text)
            return True, linear, head
        return not (math.isnan(linear) and math.isnan(head)), linear, head

    def _trusts(self, record: Record, text: str, recorded: float) -> bool:
        """Whether scores that were recorded under this version are those of the weights at hand."""
        version = record.decision.version
        checks = self._checks.get(version, 0)
        if checks == CHECKS or self._score_text is None:
            return True
        agrees = checks != FOREIGN and abs(self._score_text(text) - recorded) < 1e-9
        self._checks[version] = checks + 1 if agrees else FOREIGN
        return agrees


def id_of(decision_id: str) -> int:
    """A decision id as a number; two of a log differ, but for one chance in 2^61 for each pair."""
    try:
        return int(decision_id, 16) % ID_MODULUS
    except ValueError:
        return int.from_bytes(hashlib.blake2b(decision_id.encode(), digest_size=8).digest()) % ID_MODULUS


def _is_continued(draft: Draft) -> bool:
    late = draft.window.late if draft.window is not None else None
    return late is not None and late.action == "continue"


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


def failed_bits(signals: DraftSignals | None) -> int:
    """The failed checks of a draft, one bit each in the order of VALIDITY_CHECKS; UNKNOWN: it was not checked."""
    if signals is None or signals.failed is None:
        return UNKNOWN
    return sum(1 << bit for bit, name in enumerate(VALIDITY_CHECKS) if name in signals.failed)


def _is_empty(text: str | None, finish_reason: str | None) -> bool:
    return text is not None and not text.strip() and finish_reason not in CALLS
