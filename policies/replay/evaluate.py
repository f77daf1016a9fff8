"""A policy document on columns: where it would send every logged request, before generation and after a draft."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.cascade import Cascade
from policies.chain import PolicyChain
from policies.replay.columns import NONE, ROUTES, STUDENT, TEACHER, Codes, Columns, Flags, Small
from policies.replay.decide import vectorised
from policies.replay.review import cascade, known_drafts

REVIEW_UNKNOWN = "review_unknown"


class NotVectorised(ValueError):
    """A policy of the document cannot be evaluated on columns."""


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


def evaluate(chain: PolicyChain, columns: Columns, logged: PolicyChain | None = None) -> Verdicts:
    """Decide every row by a chain.

    Args:
        logged: the document in force when the log was made.
    Raises: NotVectorised.
    """
    size = len(columns)
    names: list[str] = []
    first, reason = np.zeros(size, np.int8), np.zeros(size, np.int32)
    blind = np.zeros(size, np.bool_)
    first[columns.forced] = columns.decided[columns.forced]
    names.append("forced")
    for policy in chain.policies:
        decide = vectorised(policy)
        if decide is None:
            raise NotVectorised(f"policy {policy.name} has no vectorised form")
        votes = decide(policy, columns)
        rows = (first == NONE) & (votes.route != NONE)
        first[rows] = votes.route[rows]
        reason[rows] = votes.reason[rows] + len(names)
        names += [f"{policy.name}.{each}" for each in votes.reasons]
        blind |= (first == NONE) & votes.blind
    rest = first == NONE
    first[rest] = ROUTES[chain._default.route]
    reason[rest] = len(names)
    names.append("default")
    reviewed = (
        (first == STUDENT) & ~columns.forced & columns.reviewable if chain.reviewers else np.zeros(size, np.bool_)
    )
    window = chain.commit_window
    if window is None:
        reviewed &= ~columns.stream
    logged_window = logged.commit_window if logged is not None else None
    drafts = known_drafts(columns, window.tokens if window else None, logged_window.tokens if logged_window else None)
    escalated, silent = np.zeros(size, np.bool_), reviewed & drafts.known
    for reviewer in chain.reviewers:
        if type(reviewer) is not Cascade:
            raise NotVectorised(f"reviewer {reviewer.name} has no vectorised form")
        votes = cascade(reviewer, drafts)
        asked = silent if getattr(reviewer, "commit_window", None) is not None else silent & ~drafts.prefix
        rows = asked & (votes.route != NONE)
        escalated |= rows & (votes.route == TEACHER)
        reason[rows] = votes.reason[rows] + len(names)
        names += [f"{reviewer.name}.{each}" for each in votes.reasons]
        silent = silent & ~rows
    known = ~reviewed | drafts.known
    reason[~known] = len(names)
    names.append(REVIEW_UNKNOWN)
    return Verdicts(first, reviewed, known, escalated, reason, tuple(names), blind)
