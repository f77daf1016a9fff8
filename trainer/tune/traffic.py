"""The traffic that a threshold is for: its scores, its rate, and what it costs. Labels are not needed for that."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from policies.base import RouteDecision
from policies.chain import Vote
from policies.record import DecisionRecord

MEAN_LOGPROB = "mean_logprob"
EXPLORE = "explore"
"""Name of the policy that draws lots."""
DAY_S = 86_400.0


@dataclass(frozen=True)
class Score:
    """What orders the requests: the vote of a policy, else how unsure the student was of its answer."""

    policy: str | None = None
    """Its votes in the records. They were given before anybody labelled the answer, so no label has made them."""
    tag: str | None = None
    """The tag by which thresholds are to differ."""

    def of(self, record: DecisionRecord, logprob: float | None) -> float | None:
        """In [0, 1], higher = teacher; inf and -inf where the policy escalates or keeps whatever its threshold is.

        Args:
            logprob: mean over the student's answer; NaN for an empty one, which a cascade always escalates.
        Returns:
            None: the policy was not asked, or the student's logprobs are not known.
        """
        if self.policy is None:
            if logprob is None:
                return None
            return math.inf if math.isnan(logprob) else -math.expm1(min(logprob, 0.0))
        for said in _said_by(self.policy, record):
            if said.score is not None:
                return said.score
            return math.inf if said.route == "teacher" else -math.inf
        return None

    def tag_of(self, record: DecisionRecord) -> str:
        return record.tags.get(self.tag, "") if self.tag is not None else ""


def _said_by(policy: str, record: DecisionRecord) -> Iterator[RouteDecision | Vote]:
    """The newest word first: votes on the draft come behind those before it."""
    review = record.draft.review if record.draft is not None else None
    if review is not None and review.policy == policy:
        yield review
    yield from (vote for vote in reversed(record.votes) if vote.policy == policy)
    if record.decision.policy == policy:
        yield record.decision


def _was_escalated(record: DecisionRecord) -> bool:
    """Whether a policy chose the teacher. A lot chooses whatever the answer would be, and a fallback is no choice."""
    said = record.draft.review if record.draft is not None and record.draft.review is not None else record.decision
    if record.route != "teacher" or said.policy == EXPLORE:
        return False
    return said.route == "teacher" or (record.draft is not None and record.draft.escalated)


@dataclass
class Traffic:
    """All requests that reach the policy, labelled or not."""

    scores: list[float] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    unscored: int = 0
    """Whose score is not known: what the others say about the share holds for the others."""
    escalated_from: float = math.inf
    """The lowest score of a request that was escalated, by whatever policy but not by lot."""
    first_s: float = math.inf
    last_s: float = -math.inf
    labelled_s: list[float] = field(default_factory=list)
    teacher_usd: float = 0.0
    """Sum of what the teacher would have charged, over `priced` requests."""
    student_usd: float = 0.0
    priced: int = 0
    teachers: dict[str, int] = field(default_factory=dict)
    fingerprints: set[str] = field(default_factory=set)
    scored_by: set[str] = field(default_factory=set)
    """Hashes of the models that scored drafts, where the records have them."""

    def add(self, record: DecisionRecord, score: Score, logprob: float | None) -> None:
        """One answered request of the student that is tuned; `logprob` as in `Score.of`."""
        self.teachers[record.teacher] = self.teachers.get(record.teacher, 0) + 1
        if record.route == "teacher" and record.backend_fingerprint is not None:
            self.fingerprints.add(record.backend_fingerprint)
        found = score.of(record, logprob)
        if found is None:
            self.unscored += score.policy is None and record.decision.policy == "default"
            return
        signals = record.draft.signals if record.draft is not None else None
        if signals is not None and signals.scored_by is not None:
            self.scored_by.add(signals.scored_by)
        self.scores.append(found)
        self.tags.append(score.tag_of(record))
        if math.isfinite(found) and _was_escalated(record):
            self.escalated_from = min(self.escalated_from, found)
        self.first_s, self.last_s = min(self.first_s, record.created_s), max(self.last_s, record.created_s)
        student_usd = record.draft.cost_usd if record.draft is not None else None
        if record.draft is None and record.route == "student":
            student_usd = record.cost_usd
        if student_usd is not None and record.counterfactual_cost_usd is not None:
            self.priced += 1
            self.student_usd += student_usd
            self.teacher_usd += record.counterfactual_cost_usd

    def per_day(self) -> float:
        """Requests a day; 0 where the log spans no time."""
        span_s = self.last_s - self.first_s
        return len(self.scores) * DAY_S / span_s if span_s > 0 else 0.0

    def affordable_share(self, usd_per_day: float) -> float | None:
        """Share that the teacher may answer within the budget, the student's part of the costs taken off first.

        None: the log says too little about rate or prices. Negative: the student alone costs more.
        """
        if not self.priced or not self.per_day() or self.teacher_usd <= 0:
            return None
        teacher_usd, student_usd = self.teacher_usd / self.priced, self.student_usd / self.priced
        return (usd_per_day / self.per_day() - student_usd) / teacher_usd
