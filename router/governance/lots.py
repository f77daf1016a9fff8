"""Draws for exploration: from the decision id, so that a replay draws the same."""

from __future__ import annotations

import hashlib

from policies.base import Lot
from router.chat import ChatRequest
from router.decision_ids import PREFIX_DIGITS, level_of

NEVER = 1.0 - 2.0**-53


def lot_of(request: ChatRequest, decision_id: str, *, share: float, reviewed: bool, both_models: bool) -> Lot:
    """What is drawn for a request, or why nothing may be.

    Args:
        decision_id: empty where a decision is only explained: nothing is drawn then.
        share: of the probability towards the teacher that the budget leaves.
        both_models: its tenant may use either.
    """
    excluded = None
    if request.directives.explore is False:
        excluded = "opted_out"
    elif request.directives.purpose not in (None, "traffic"):
        excluded = "not_traffic"
    elif decision_id and level_of(decision_id) == "none":
        excluded = "not_recorded"
    elif not both_models:
        excluded = "not_allowed"
    draw = uniform(decision_id) if decision_id else NEVER
    return Lot(draw=draw, share=share, reviewed=reviewed, excluded=excluded)


def uniform(decision_id: str) -> float:
    """In [0, 1), evenly spread over ids. The digit that says what may be kept and who answered is left out: it is not
    the same at the beginning of a request and at its end."""
    name = decision_id[:PREFIX_DIGITS] + decision_id[PREFIX_DIGITS + 1 :]
    return (int.from_bytes(hashlib.blake2b(f"explore/{name}".encode(), digest_size=8).digest()) >> 11) / 2**53
