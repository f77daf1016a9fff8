"""The cascade on columns: what it would have said of every draft that the log knows of.

A draft is known where the gateway reviewed one, and where the student answered with logprobs. A stream is judged by its
first tokens: the mean of those is known only where a window of the same size was open, or the answer ended within it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from policies.cascade import Cascade
from policies.draft_score import with_agreement
from policies.replay.columns import (
    FINISH_LENGTH,
    STUDENT,
    TEACHER,
    UNKNOWN,
    Columns,
    Flags,
    Floats,
    Ints,
    Small,
)
from policies.replay.decide import CLOSE, Ballot, Votes, confidences
from policies.validity import CHECKS, EMPTY, TRUNCATED


class Drafts(NamedTuple):
    """The student's answers as a reviewer would see them, one row a record."""

    known: Flags
    logprob: Floats
    finish: Small
    empty: Flags
    prefix: Flags
    failed: Ints
    agreement: Floats


def known_drafts(columns: Columns, window_tokens: int | None, logged_window_tokens: int | None) -> Drafts:
    """What the log knows of drafts under a commit window.

    Args:
        window_tokens: what the candidate holds back of a stream; None: it does not review streams.
        logged_window_tokens: the same of the document that was in force when the log was made, as far as known.
    """
    own = ~columns.has_draft & (columns.route == STUDENT) & columns.answered & ~columns.cached
    whole = (columns.has_draft & ~columns.draft_prefix) | (own & ~np.isnan(columns.answer_logprob))
    tokens = np.where(columns.has_draft, columns.draft_tokens, columns.used_completion_tokens)
    known = whole.copy()
    prefix = np.zeros(len(columns), np.bool_)
    if window_tokens is not None:
        same = (columns.draft_tokens == window_tokens) | (window_tokens == logged_window_tokens)
        prefix = columns.has_draft & columns.draft_prefix & same
        within = whole & (tokens >= 0) & (tokens <= window_tokens)
        # However many tokens came at once: what ended in a window that was no wider ends in this one.
        if logged_window_tokens is not None and logged_window_tokens <= window_tokens:
            within |= columns.has_draft & ~columns.draft_prefix
        known = np.where(columns.stream, prefix | within, whole)
    return Drafts(
        known=known,
        logprob=np.where(columns.has_draft, columns.draft_logprob, columns.answer_logprob),
        finish=np.where(columns.has_draft, columns.draft_finish, columns.answer_finish),
        empty=np.where(columns.has_draft, columns.draft_empty, columns.answer_empty),
        prefix=prefix,
        failed=np.where(columns.has_draft, columns.draft_failed, UNKNOWN),
        agreement=np.where(columns.has_draft, columns.draft_agreement, np.nan),
    )


def cascade(policy: Cascade, drafts: Drafts) -> Votes:
    """Votes on drafts by a calibrator; those that are not known get any."""
    ballot = Ballot(len(drafts.known))
    _cast_checks(policy, drafts, ballot)
    every = np.ones(len(drafts.known), np.bool_)
    fitted, threshold, band = policy.score.calibrator, policy.used_threshold, policy.second_sample_band
    if policy.score.silent is not None or fitted is None:
        ballot.cast(every, policy.score.silent or "no_calibrator")
        return ballot.votes()
    base = 1.0 - confidences(fitted.calibrator, drafts.logprob)
    ballot.cast(np.isnan(base), "no_logprobs")
    if threshold is None:
        ballot.cast(every, "no_threshold")
        return ballot.votes()
    score = base.copy()
    close = np.abs(base - threshold) < CLOSE
    if band is not None:
        agreed = ~np.isnan(drafts.agreement)
        within = agreed & (base >= band[0]) & (base <= band[1])
        score[within] = (base[within] + 1.0 - drafts.agreement[within]) / 2
        near = (np.abs(base - band[0]) < CLOSE) | (np.abs(base - band[1]) < CLOSE)
        close |= (agreed & near) | (np.abs(score - threshold) < CLOSE)
    for index in np.flatnonzero(close):
        exact = fitted.calibrator.confidence(float(drafts.logprob[index]))
        agreement = None if np.isnan(drafts.agreement[index]) else float(drafts.agreement[index])
        score[index] = np.nan if exact is None else with_agreement(1.0 - exact, agreement, band)
    ballot.cast(score > threshold, "low_confidence", TEACHER)
    ballot.cast(every, "confident")
    return ballot.votes()


def _cast_checks(policy: Cascade, drafts: Drafts, ballot: Ballot) -> None:
    """The validity checks that count, the gravest first."""
    unchecked, checks = drafts.failed == UNKNOWN, policy.checks
    failed = np.maximum(drafts.failed, 0)
    for bit, name in enumerate(CHECKS):
        if name not in checks:
            continue
        rows = (failed & (1 << bit)) != 0
        if name == EMPTY:
            rows |= unchecked & drafts.empty & ~drafts.prefix
        elif name == TRUNCATED and policy.escalate_truncated is True:
            rows |= drafts.finish == FINISH_LENGTH
        ballot.cast(rows, name, TEACHER)
