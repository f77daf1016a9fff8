"""Which answered requests are put to the other model as well, and with which probability.

The draw is a pure function of the decision id: the same log gives the same sample, whoever looks. Its probability
is recorded with it, so that a mean over the sample can be weighed back to all of the traffic, whatever the shares of
the strata were (Horvitz & Thompson 1952).
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from policies.base import Route, RouteDecision
from policies.chain import Vote
from policies.record import DecisionRecord
from router.config.quality import ShadowConfig, ShadowStratumConfig

ANSWERED = frozenset({"ok", "degraded"})


class Draw(NamedTuple):
    """A request that was drawn."""

    asked: Route
    """Who has not answered it yet."""
    propensity: float
    predicted: float | None
    """P(the student's answer is inadequate), as the policies gave it."""


class Scored(NamedTuple):
    """What the policies thought of a request."""

    score: float | None
    threshold: float | None


class Sampler:
    """Draws requests of the traffic log."""

    def __init__(self, config: ShadowConfig) -> None:
        self._config = config

    def draw(self, record: DecisionRecord) -> Draw | None:
        """None: the request was not drawn, or may not be.

        Only traffic that clients let us keep in full is drawn: the other answer has to be kept to be graded.
        """
        if (
            record.purpose != "traffic"
            or record.capture != "full"
            or record.outcome not in ANSWERED
            or record.route is None
            or record.completion is None
            or (record.draft is not None and record.draft.continued is not None)  # of two models: nobody's answer
        ):
            return None
        scored = scored_by_policies(record)
        share = self.share_of(record, scored)
        if share <= 0.0 or uniform(self._config.salt, record.decision_id) >= share:
            return None
        return Draw("teacher" if record.route == "student" else "student", share, scored.score)

    def share_of(self, record: DecisionRecord, scored: Scored) -> float:
        """The probability with which a request like this is drawn."""
        config = self._config
        found = next((s for s in config.strata if _fits(s, record, scored)), config)
        return found.student_share if record.route == "student" else found.teacher_share


def scored_by_policies(record: DecisionRecord) -> Scored:
    """The last word that came with a score: reviewers of a draft know more than policies before it."""
    said: list[RouteDecision | Vote | None] = [vote for vote in reversed(record.votes) if not vote.shadow]
    if record.draft is None:
        said.insert(0, record.decision)
    else:
        said = [record.draft.review, *said, record.decision]
    for each in said:
        if each is not None and each.score is not None:
            return Scored(each.score, each.threshold)
    return Scored(None, None)


def uniform(salt: str, decision_id: str) -> float:
    """A number in [0, 1) that follows from an id, evenly spread over ids."""
    digest = hashlib.blake2b(f"{salt}/{decision_id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


def _fits(stratum: ShadowStratumConfig, record: DecisionRecord, scored: Scored) -> bool:
    score, threshold = scored
    if any(record.tags.get(key) != value for key, value in stratum.tags.items()):
        return False
    if stratum.min_score is not None and (score is None or score < stratum.min_score):
        return False
    if stratum.max_score is not None and (score is None or score > stratum.max_score):
        return False
    if stratum.near_threshold is None:
        return True
    return score is not None and threshold is not None and abs(score - threshold) <= stratum.near_threshold
