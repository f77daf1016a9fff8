"""Policies record by record: for those that have no form on columns, and the measure of those that have.

Slow, some ten thousand records a second: every record is decoded whole, and every policy is asked in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import msgspec
import numpy as np

from policies.base import Extend, RequestFeatures, RouteDecision, Signal
from policies.chain import PolicyChain, with_scores
from policies.draft_signals import PREFIX_TOKENS
from policies.record import DecisionRecord, Draft
from policies.replay.columns import NONE, ROUTES, STUDENT, UNKNOWN, Columns
from policies.replay.evaluate import (
    DEFAULT,
    FORCED,
    REVIEW_UNKNOWN,
    Verdicts,
    reviewable_rows,
    window_of,
)
from policies.replay.extract import FORCED_POLICY, id_of
from policies.replay.review import Drafts, known_drafts

T = TypeVar("T")
PROGRESS_RECORDS = 5_000
NO_TEXT = "no_text"
"""Reason of policies that would have read the question."""


def evaluate_records(
    chain: PolicyChain,
    columns: Columns,
    records: Iterable[DecisionRecord],
    logged: PolicyChain | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Verdicts:
    """As `evaluate` (policies/replay/evaluate.py), by the policies' own `decide` and `review`.

    Args:
        records: those of the columns among any others, in any order.
    """
    size = len(columns)
    row_of = {identity: row for row, identity in enumerate(columns.ids.tolist())}
    first, reason = np.zeros(size, np.int8), np.zeros(size, np.int32)
    escalated, by_lot, blind = (np.zeros(size, np.bool_) for _ in range(3))
    names: dict[str, int] = {}
    drafts = known_drafts(columns, window_of(chain), logged.commit_window if logged is not None else None)
    reviewable = reviewable_rows(chain, columns)
    done = 0
    for record in records:
        row = row_of.get(id_of(record.decision_id), UNKNOWN)
        if row == UNKNOWN or record.features is None or first[row] != NONE:
            continue
        said = FORCED
        if record.decision.policy == FORCED_POLICY:
            first[row] = ROUTES[record.decision.route]
        else:
            evaluation = _finished(chain.evaluate(with_scores(record.features, record.votes), _unavailable))
            decision = evaluation.decision
            blind[row] = record.capture != "full" and any(vote.reason == NO_TEXT for vote in evaluation.votes)
            first[row] = ROUTES[decision.route]
            said = decision.reason if decision.policy == DEFAULT else f"{decision.policy}.{decision.reason}"
            by_lot[row] = decision.propensity < 1.0
            if first[row] == STUDENT and reviewable[row] and drafts.known[row] and not by_lot[row]:
                review, seen = _reviewed(chain, record, drafts, row)
                drafts.known[row] = seen
                if isinstance(review, RouteDecision):
                    escalated[row] = review.route == "teacher"
                    said = f"{review.policy}.{review.reason}"
        reason[row] = names.setdefault(said, len(names))
        done += 1
        if done % PROGRESS_RECORDS == 0:
            progress(done)
    reviewed = reviewable & (first == STUDENT) & ~columns.forced & ~by_lot
    known = ~reviewed | drafts.known
    reason[~known] = names.setdefault(REVIEW_UNKNOWN, len(names))
    return Verdicts(first, reviewed, known, escalated, reason, tuple(names), blind)


def _reviewed(
    chain: PolicyChain, record: DecisionRecord, drafts: Drafts, row: int
) -> tuple[RouteDecision | None, bool]:
    """What the reviewers say at last, and whether the log has what they would have seen: a window that grows is looked
    at size by size, as long as they want to see more."""
    assert record.features is not None  # noqa: S101 - it has a row
    draft = _draft_of(record, prefix=bool(drafts.prefix[row]))
    if drafts.cut[row]:
        draft = _first_tokens(draft, int(drafts.tokens[row])) or draft
    sizes = chain.commit_window.sizes() if chain.commit_window is not None and draft.prefix else ()
    for size in sizes[1:]:
        review, _ = chain.review(record.features, msgspec.structs.replace(draft, extendable=True))
        if not isinstance(review, Extend):
            return review, True
        wider = _at_size(record, size)
        if wider is None:
            return None, False
        draft = wider
        if not draft.prefix:
            break
    review, _ = chain.review(record.features, msgspec.structs.replace(draft, extendable=False))
    return (None if isinstance(review, Extend) else review), True


def _at_size(record: DecisionRecord, tokens: int) -> Draft | None:
    """The beginning of the recorded draft in a window of this size; None: the log does not have it."""
    draft = record.draft
    if draft is None or (draft.tokens <= tokens and not draft.prefix) or (draft.prefix and draft.tokens == tokens):
        return draft
    return _first_tokens(draft, tokens)


def _first_tokens(draft: Draft, tokens: int) -> Draft | None:
    means = draft.signals.prefix_means if draft.signals is not None else ()
    place = PREFIX_TOKENS.index(tokens) if tokens in PREFIX_TOKENS else len(means)
    if place >= len(means):
        return None
    return Draft(mean_logprob=means[place], tokens=tokens, prefix=True)


def _draft_of(record: DecisionRecord, *, prefix: bool) -> Draft:
    """What a reviewer would be shown: the recorded draft, else the student's own answer."""
    if record.draft is not None:
        return msgspec.structs.replace(record.draft, prefix=prefix)
    return Draft(
        text=record.completion,
        mean_logprob=record.mean_logprob,
        tokens=record.usage.completion_tokens if record.usage is not None else 0,
        finish_reason=record.finish_reason,
    )


async def _unavailable(signal: Signal, features: RequestFeatures) -> RequestFeatures:
    """What was not measured then is not known now."""
    signals = features.signals
    missing = msgspec.structs.replace(signals, unavailable=(*signals.unavailable, signal))
    return msgspec.structs.replace(features, signals=missing)


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("a policy chain waited for something that a replay does not have")
