"""The cascade on columns: what it would have said of every draft that the log knows of.

A draft is known where the gateway reviewed one, and where the student answered with logprobs. A stream is judged by its
first tokens: the mean of those is known only where a window of the same size was open, or the answer ended within it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from policies.cascade import Cascade
from policies.replay.columns import (
    FINISH_LENGTH,
    STUDENT,
    TEACHER,
    Columns,
    Flags,
    Floats,
    Small,
)
from policies.replay.decide import CLOSE, Ballot, Votes, confidences


class Drafts(NamedTuple):
    """The student's answers as a reviewer would see them, one row a record."""

    known: Flags
    logprob: Floats
    finish: Small
    empty: Flags
    prefix: Flags


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
        known = np.where(columns.stream, prefix | within, whole)
    return Drafts(
        known=known,
        logprob=np.where(columns.has_draft, columns.draft_logprob, columns.answer_logprob),
        finish=np.where(columns.has_draft, columns.draft_finish, columns.answer_finish),
        empty=np.where(columns.has_draft, columns.draft_empty, columns.answer_empty),
        prefix=prefix,
    )


def cascade(policy: Cascade, drafts: Drafts) -> Votes:
    """Votes on drafts; those that are not known get any."""
    ballot = Ballot(len(drafts.known))
    if policy.escalate_empty:
        ballot.cast(drafts.empty & ~drafts.prefix, "empty_answer", TEACHER)
    if policy.escalate_truncated:
        ballot.cast(drafts.finish == FINISH_LENGTH, "truncated", TEACHER)
    every = np.ones(len(drafts.known), np.bool_)
    if policy._fitted is None:
        ballot.cast(every, "no_calibrator")
        return ballot.votes()
    if policy._other_student:
        ballot.cast(every, "other_student")
        return ballot.votes()
    confidence = confidences(policy._fitted.calibrator, drafts.logprob)
    ballot.cast(np.isnan(confidence), "no_logprobs")
    if policy.threshold is None:
        ballot.cast(every, "no_threshold")
        return ballot.votes()
    score = 1.0 - confidence
    for index in np.flatnonzero(np.abs(score - policy.threshold) < CLOSE):
        exact = policy._fitted.calibrator.confidence(float(drafts.logprob[index]))
        score[index] = np.nan if exact is None else 1.0 - exact
    ballot.cast(score > policy.threshold, "low_confidence", TEACHER)
    ballot.cast(every, "confident")
    return ballot.votes()
