"""The built-in policies on columns: the same decisions as their `decide`, some million rows a second.

Every function here is held to the scalar policy by a property test, record by record. Where rounding could tell the two
apart, within `CLOSE` of a threshold, the score is computed again by the scalar policy's own arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from policies.base import Policy
from policies.calibration import Calibrator, Clipped, Identity, Isotonic, Platt
from policies.long_context import MAX_BYTES_PER_TOKEN, MIN_BYTES_PER_TOKEN, LongContext
from policies.long_reasoning import LongReasoning
from policies.replay.columns import (
    EFFORT_HIGH,
    EFFORT_LOW,
    NONE,
    TEACHER,
    UNKNOWN,
    Codes,
    Columns,
    Flags,
    Floats,
    Ints,
    Small,
)
from policies.retrieval_confidence import RetrievalConfidence, aggregated
from policies.standing import CertificateGuard

CLOSE = 1e-9


class Votes(NamedTuple):
    """What one policy says about every row."""

    route: Small
    """NONE: it abstains."""
    reason: Codes
    """Index into `reasons`."""
    reasons: tuple[str, ...]
    blind: Flags
    """Rows on which it abstains because the log does not have what it would look at."""


class Ballot:
    """Votes while they are cast: the first rule that holds for a row counts."""

    def __init__(self, rows: int) -> None:
        self.route = np.zeros(rows, np.int8)
        self.reason = np.zeros(rows, np.int32)
        self.open = np.ones(rows, np.bool_)
        self.reasons: list[str] = []

    def cast(self, where: Flags, reason: str, route: int = NONE) -> None:
        self.reasons.append(reason)
        rows = self.open & where
        self.route[rows] = route
        self.reason[rows] = len(self.reasons) - 1
        self.open &= ~where

    def votes(self, blind: Flags | None = None) -> Votes:
        assert not self.open.any()  # noqa: S101 - every policy ends with a rule for the rest
        no_row = np.zeros(len(self.route), np.bool_)
        return Votes(self.route, self.reason, tuple(self.reasons), no_row if blind is None else blind)


def long_context(policy: LongContext, columns: Columns) -> Votes:
    ballot = Ballot(len(columns))
    window, requested = columns.student_window_tokens, columns.requested_output_tokens
    room = window - requested - (policy.margin_tokens + policy.template_tokens_per_message * columns.message_count)
    counted = columns.prompt_tokens
    ballot.cast(window == UNKNOWN, "window_unknown")
    ballot.cast(requested >= window, "output_exceeds_window", TEACHER)
    ballot.cast(
        (room <= 0) | (columns.prompt_bytes > room * MAX_BYTES_PER_TOKEN) | ((counted != UNKNOWN) & (counted > room)),
        "exceeds_window",
        TEACHER,
    )
    estimated = (counted == UNKNOWN) & (columns.prompt_bytes > room * MIN_BYTES_PER_TOKEN)
    too_long = columns.approx_prompt_tokens * policy.estimate_factor > room
    ballot.cast(estimated & too_long, "exceeds_window_estimated", TEACHER)
    ballot.cast(estimated | columns.has_images, "fits_estimated")
    ballot.cast(ballot.open, "fits")
    return ballot.votes()


def long_reasoning(policy: LongReasoning, columns: Columns) -> Votes:
    """With the linear scores of the columns: they must be those of this policy's weights."""
    _, head, threshold, lowest, highest = policy._fitted
    ballot, score, head_score = Ballot(len(columns)), columns.reasoning_score, columns.embedding_score
    ballot.cast(columns.effort == EFFORT_HIGH, "effort_high", TEACHER)
    ballot.cast(columns.effort == EFFORT_LOW, "effort_low")
    blind = ballot.open & np.isnan(score) & (columns.has_text | ~columns.full)
    ballot.cast(~columns.has_text | blind, "no_text")
    if head is not None:
        unsure = (lowest <= score) & (score <= highest)
        ballot.cast(unsure & np.isnan(head_score), "embedding_unavailable")
        ballot.cast(unsure & (head_score > threshold), "multi_step_embedding", TEACHER)
        ballot.cast(unsure, "single_step_embedding")
    ballot.cast(score > threshold, "multi_step", TEACHER)
    ballot.cast(ballot.open, "single_step")
    return ballot.votes(blind)


def retrieval_confidence(policy: RetrievalConfidence, columns: Columns) -> Votes:
    ballot = Ballot(len(columns))
    stated = columns.retrieval_confidence
    confidence = np.where((stated >= 0) & (stated <= 1), stated, np.nan)
    ballot.cast(~np.isnan(stated) & np.isnan(confidence), "scores_uncalibrated")
    asked = np.isnan(stated)
    empty = asked & (columns.chunk_count == 0)
    route = TEACHER if policy.escalate_when_empty else NONE
    ballot.cast(empty & columns.retrieval_attempted, "nothing_retrieved", route)
    ballot.cast(empty, "no_retrieval")
    sources = [(columns.scores, columns.scored_count, policy._scores, False)]
    if policy.compute:
        sources.append((columns.similarities, columns.similarity_count, policy._similarities, True))
    for number, (values, counts, calibrator, measured) in enumerate(sources):
        rows = asked & np.isnan(confidence) & ballot.open
        found, problem = _from_raw(policy, values, np.maximum(counts, 0), calibrator, measured=measured)
        confidence = np.where(rows, found, confidence)
        if number == len(sources) - 1:
            for code, reason in enumerate(_PROBLEMS, 1):
                named = "similarity_unavailable" if measured and reason == "scores_missing" else reason
                ballot.cast(rows & np.isnan(found) & (problem == code), named)
    ballot.cast(confidence < policy.escalate_below, "low_confidence", TEACHER)
    ballot.cast(ballot.open, "confident")
    return ballot.votes()


_PROBLEMS = ("scores_missing", "scores_uncalibrated", "too_few_chunks")


def _from_raw(
    policy: RetrievalConfidence, values: Floats, counts: Ints, calibrator: Calibrator, *, measured: bool
) -> tuple[Floats, Small]:
    """The confidence of each row, NaN with the number of the problem where there is none.

    Args:
        values: of all rows, best first within a row.
        counts: how many of them each row has.
    """
    problem = np.zeros(len(counts), np.int8)
    some = counts > 0
    first = np.cumsum(counts) - counts
    best, worst = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
    best[some], worst[some] = values[first[some]], values[(first + counts - 1)[some]]
    problem[~some] = 1
    if isinstance(calibrator, Identity) and not measured:
        problem[some & ~((worst >= 0) & (best <= 1))] = 2
    least = max(policy.min_chunks, 2 if policy.aggregate == "margin" else 1)
    problem[(problem == 0) & (counts < least)] = 3
    problem[(problem == 0) & ~(np.isfinite(best) & np.isfinite(worst))] = 2
    rows = np.flatnonzero(problem == 0)
    raw = _aggregated(policy, values, first[rows], counts[rows])
    found = np.full(len(counts), np.nan)
    found[rows] = confidences(calibrator, raw)
    for index in np.flatnonzero(np.abs(found - policy.escalate_below) < CLOSE):
        own = values[first[index] : first[index] + counts[index]].tolist()
        exact = calibrator.confidence(aggregated(own, policy.aggregate, policy.k))
        found[index] = math.nan if exact is None else exact
    problem[rows] = np.where(np.isnan(found[rows]), 2, 0)
    return found, problem


def _aggregated(policy: RetrievalConfidence, values: Floats, first: Ints, counts: Ints) -> Floats:
    if policy.aggregate == "top1":
        return values[first]
    if policy.aggregate == "margin":
        return values[first] - values[first + 1]
    total = np.zeros(len(first))
    for place in range(min(policy.k, int(counts.max(initial=0)))):
        has = counts > place
        total[has] += values[first[has] + place]
    return total / np.minimum(counts, policy.k)


def confidences(calibrator: Calibrator, raw: Floats) -> Floats:
    """`calibrator.confidence` of each value, to within rounding; NaN for None."""
    with np.errstate(invalid="ignore", over="ignore"):
        match calibrator:
            case Identity():
                found = np.where((raw >= 0) & (raw <= 1), raw, np.nan)
            case Clipped(low=low, high=high):
                found = np.clip((raw - low) / (high - low), 0.0, 1.0)
            case Platt(slope=slope, intercept=intercept):
                found = 1.0 / (1.0 + np.exp(-np.clip(slope * raw + intercept, -700.0, 700.0)))
            case Isotonic(points=points):
                x, y = np.array(points).T
                found = np.interp(raw, x, y)
    return np.where(np.isfinite(raw), found, np.nan)


def certificate_guard(policy: CertificateGuard, columns: Columns) -> Votes:
    """What voided a certificate is not in the records: a document is replayed as if nothing had."""
    ballot = Ballot(len(columns))
    ballot.cast(np.ones(len(columns), np.bool_), "certificate_valid")
    return ballot.votes()


Vectorised = Callable[[Policy, Columns], Votes]
_VECTORISED: dict[type, Callable[..., Votes]] = {
    LongContext: long_context,
    LongReasoning: long_reasoning,
    RetrievalConfidence: retrieval_confidence,
    CertificateGuard: certificate_guard,
}


def vectorised(policy: Policy) -> Vectorised | None:
    """The policy's `decide` on columns; None: it has none, its `decide` must be asked record by record."""
    return _VECTORISED.get(type(policy))
