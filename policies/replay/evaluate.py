"""A policy document on columns: where it would send every logged request, before generation and after a draft."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.cascade import Cascade
from policies.chain import PolicyChain
from policies.replay.columns import NONE, ROUTES, STUDENT, TEACHER, UNKNOWN, Codes, Columns, Flags, Small
from policies.replay.decide import vectorised
from policies.replay.review import Drafts, cascade, known_drafts

FORCED, DEFAULT, REVIEW_UNKNOWN = "forced", "default", "review_unknown"
"""Reasons that come from no policy."""


@dataclass(frozen=True)
class Verdicts:
    """Where a document sends every row."""

    first: Small
    """The route before generation."""
    reviewed: Flags
    """A cascade judges the student's answer."""
    known: Flags
    """... and the log knows what it would say. True where nothing is judged."""
    escalated: Flags
    """... and it would call the teacher in."""
    reason: Codes
    """Index into `reasons`; where the review is unknown, REVIEW_UNKNOWN."""
    reasons: tuple[str, ...]
    blind: Flags
    """Rows whose text a policy would have read, and the log does not have."""


def vectorisable(chain: PolicyChain) -> list[str]:
    """Names of the policies that have no form on columns: with any of them a document is evaluated record by record."""
    slow = [policy.name for policy in chain.policies if vectorised(policy) is None]
    slow += [governor.name for governor in (chain.governors.all if chain.governors is not None else ())]
    return slow + [
        each.name
        for each in chain.reviewers
        if type(each) is not Cascade or each.model is not None or each.threshold_by_tag is not None or each.extend_band
    ]


def evaluate(chain: PolicyChain, columns: Columns, logged: PolicyChain | None = None) -> Verdicts:
    """Decide every row by a chain of policies that have a form on columns.

    Args:
        logged: the document in force when the log was made: it tells by which window streams were judged.
    """
    size = len(columns)
    first, reason, blind = np.zeros(size, np.int8), np.zeros(size, np.int32), np.zeros(size, np.bool_)
    names = [FORCED]
    first[columns.forced] = columns.decided[columns.forced]
    for policy in chain.policies:
        decide = vectorised(policy)
        assert decide is not None  # noqa: S101 - see `vectorisable`
        votes = decide(policy, columns)
        blind |= (first == NONE) & votes.blind
        rows = (first == NONE) & (votes.route != NONE)
        first[rows] = votes.route[rows]
        reason[rows] = votes.reason[rows] + len(names)
        names += [f"{policy.name}.{each}" for each in votes.reasons]
    rest = first == NONE
    first[rest] = ROUTES[chain.default_route]
    reason[rest] = len(names)
    names.append(DEFAULT)
    reviewed = reviewable_rows(chain, columns) & (first == STUDENT) & ~columns.forced
    drafts = known_drafts(columns, window_of(chain), logged.commit_window if logged is not None else None)
    escalated, said, reasons = reviews(chain, drafts, reviewed & drafts.known)
    reason[said >= 0] = said[said >= 0] + len(names)
    names += reasons
    known = ~reviewed | drafts.known
    reason[~known] = len(names)
    names.append(REVIEW_UNKNOWN)
    return Verdicts(first, reviewed, known, escalated, reason, tuple(names), blind)


def reviews(chain: PolicyChain, drafts: Drafts, asked: Flags) -> tuple[Flags, Codes, list[str]]:
    """Whether the reviewers call the teacher in, the index of the reason (UNKNOWN: none), and the reasons."""
    escalated, said = np.zeros(len(asked), np.bool_), np.full(len(asked), UNKNOWN, np.int32)
    reasons: list[str] = []
    silent = asked.copy()
    for reviewer in chain.reviewers:
        assert type(reviewer) is Cascade  # noqa: S101 - see `vectorisable`
        votes = cascade(reviewer, drafts)
        rows = silent & (votes.route != NONE)
        if reviewer.commit_window is None:
            rows &= ~drafts.prefix
        escalated |= rows & (votes.route == TEACHER)
        said[rows] = votes.reason[rows] + len(reasons)
        reasons += [f"{reviewer.name}.{each}" for each in votes.reasons]
        silent &= ~rows
    return escalated, said, reasons


def reviewable_rows(chain: PolicyChain, columns: Columns) -> Flags:
    """Rows whose draft by the student this chain would review."""
    if not chain.reviewers:
        return np.zeros(len(columns), np.bool_)
    return columns.reviewable & (~columns.stream | (chain.commit_window is not None))


def window_of(chain: PolicyChain | None) -> int | None:
    """Tokens of a stream that a chain holds back."""
    return None if chain is None or chain.commit_window is None else chain.commit_window.tokens
