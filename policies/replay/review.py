"""The cascade on columns: what it would have said of every draft that the log knows of.

A draft is known where the gateway reviewed one, and where the student answered with logprobs. A stream is judged by its
first tokens: the mean of those is known where a window of the same size was open, where the answer ended within it, and
where the record keeps the mean of so many first tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from policies.calibration import Calibrator, CalibratorArtefact
from policies.cascade import Cascade
from policies.draft_signals import PREFIX_TOKENS
from policies.drafts.score import with_agreement
from policies.drafts.validity import CHECKS, EMPTY, TRUNCATED
from policies.prefix_calibration import prefix_curve
from policies.replay.columns import (
    FINISH_LENGTH,
    FINISH_UNKNOWN,
    STUDENT,
    TEACHER,
    UNKNOWN,
    Columns,
    Flags,
    Floats,
    Ints,
    Rows,
    Small,
)
from policies.replay.decide import CLOSE, Ballot, Votes, confidences
from policies.window import CommitWindow


class Drafts(NamedTuple):
    """The student's answers as a reviewer would see them, one row a record."""

    known: Flags
    logprob: Floats
    finish: Small
    empty: Flags
    prefix: Flags
    failed: Ints
    agreement: Floats
    tokens: Ints
    cut: Flags
    """The log has more of the answer than the window would have held: the mean is that of its first tokens alone."""


def known_drafts(columns: Columns, window_tokens: int | None, logged: CommitWindow | None) -> Drafts:
    """What the log knows of drafts under a commit window.

    Args:
        window_tokens: what the candidate holds back of a stream; None: it does not review streams.
        logged: window of the document that was in force when the log was made, as far as known.
    """
    logged_window_tokens = logged.tokens if logged is not None else None
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
    first = _first_means(columns, window_tokens)
    longer = columns.stream & ~np.isnan(first) & (columns.draft_tokens > (window_tokens or 0))
    may_have_grown = logged is None or logged.grown() is not None  # else so many tokens came at once
    grown = prefix & (columns.draft_tokens >= 2 * (window_tokens or 0)) & may_have_grown
    cut = longer & (~known | grown)
    return Drafts(
        known=known | cut,
        logprob=np.where(cut, first, np.where(columns.has_draft, columns.draft_logprob, columns.answer_logprob)),
        finish=np.where(
            cut, FINISH_UNKNOWN, np.where(columns.has_draft, columns.draft_finish, columns.answer_finish)
        ).astype(np.int8),
        empty=np.where(columns.has_draft, columns.draft_empty, columns.answer_empty) & ~cut,
        prefix=prefix | cut,
        failed=np.where(columns.has_draft & ~cut, columns.draft_failed, UNKNOWN),
        agreement=np.where(columns.has_draft & ~cut, columns.draft_agreement, np.nan),
        tokens=np.where(cut, window_tokens or 0, tokens),
        cut=cut,
    )


def _first_means(columns: Columns, tokens: int | None) -> Floats:
    """Mean logprob of the first tokens of every draft; NaN where it is not recorded."""
    means = np.full(len(columns), np.nan)
    if tokens in PREFIX_TOKENS:
        place = PREFIX_TOKENS.index(tokens)
        rows = np.flatnonzero(columns.prefix_count > place)
        starts = np.cumsum(columns.prefix_count) - columns.prefix_count
        means[rows] = columns.prefix_means[starts[rows] + place]
    return means


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
    for rows, curve in _prefix_curves(fitted, drafts):
        base[rows] = 1.0 - confidences(curve, drafts.logprob[rows])
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
        curve = prefix_curve(fitted, int(drafts.tokens[index])) if drafts.prefix[index] else fitted.calibrator
        exact = curve.confidence(float(drafts.logprob[index]))
        agreement = None if np.isnan(drafts.agreement[index]) else float(drafts.agreement[index])
        score[index] = np.nan if exact is None else with_agreement(1.0 - exact, agreement, band)
    ballot.cast(score > threshold, "low_confidence", TEACHER)
    ballot.cast(every, "confident")
    return ballot.votes()


def _prefix_curves(fitted: CalibratorArtefact, drafts: Drafts) -> Iterator[tuple[Rows, Calibrator]]:
    """The rows that a curve of prefixes scores, and the curve."""
    if fitted.prefixes is msgspec.UNSET:
        return
    rows = np.flatnonzero(drafts.prefix)
    for tokens in np.unique(drafts.tokens[rows]):
        yield rows[drafts.tokens[rows] == tokens], prefix_curve(fitted, int(tokens))


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
