"""One labelled answer of a student with what is known around it, and what a log has of them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from policies.grading import Grader
from policies.prefix_calibration import Answer as PrefixAnswer
from trainer.tune.pairs import Pairs
from trainer.tune.threshold import Answers
from trainer.tune.traffic import Traffic


@dataclass(frozen=True)
class Grading:
    """What makes an answer right."""

    grader: Grader = "exact"
    """Compares an answer with a label."""
    min_score: float = 0.5
    """Where there is no label: a score from here on means right."""


@dataclass(frozen=True)
class Row:
    """One labelled answer of a student."""

    decision_id: str
    student: str
    prompt: str
    """Hash of the messages; the record's id where they were not captured."""
    logprob: float
    """NaN for an empty answer."""
    right: bool
    teacher: float | None = None
    """Share of the teacher's answers to the same messages that are right; None = not known."""
    graded: float | None = None
    """Outcome of the student's answer where it is finer than right and wrong, in [0, 1]."""
    score: float | None = None
    """As in `Pairs.score`; None = not known."""
    tag: str = ""
    weight: float = 1.0
    """1 / the probability with which the request was drawn."""
    created_s: float = 0.0
    assumed_wrong: bool = False
    """The student's answer differs from the teacher's, and nobody has said which one is right."""
    fingerprints: frozenset[str] = frozenset()
    """That the teacher's judged answers stated."""
    escalated: bool = False
    """The teacher's answer was delivered."""
    by_score: bool = False
    """Judged by a score of the answer that was delivered: of an escalated request there is none of the student's."""
    passed_on: bool = False
    """The label was given to another record with the same messages."""
    prefix_means: tuple[float, ...] = ()
    """Of its first tokens, where the record has them (`DraftSignals.prefix_means`)."""
    tokens: int = 0

    @property
    def outcome(self) -> float:
        return float(self.right) if self.graded is None else self.graded


@dataclass
class Collected:
    """What was found, and what was left out by cause."""

    rows: list[Row] = field(default_factory=list)
    """Judged by people."""
    drawn: list[Row] = field(default_factory=list)
    """Graded with their shadow answers; weighed."""
    traffic: Traffic = field(default_factory=Traffic)
    sealed_ids: list[str] = field(default_factory=list)
    """Labelled records of the sealed sets. They are not among the rows."""
    counts: Counter[str] = field(default_factory=Counter)
    judged: Counter[str] = field(default_factory=Counter)
    """Records that were judged themselves, by their messages (`Row.prompt`)."""

    @property
    def students(self) -> Counter[str]:
        return Counter(row.student for row in (*self.rows, *self.drawn))

    def prefixes(self) -> list[PrefixAnswer]:
        """Answers that were judged whole, by their first tokens: those of a stream that was judged by its beginning are
        missing where it was rejected, and so are all of them."""
        return [PrefixAnswer(row.prefix_means, row.tokens, row.right) for row in self.rows if row.prefix_means]

    def answers(self, *, drawn: bool = False) -> Answers:
        rows = self.drawn if drawn else self.rows
        return Answers(
            logprob=np.array([row.logprob for row in rows], dtype=np.float64),
            right=np.array([row.right for row in rows], dtype=np.bool_),
            teacher=np.array([math.nan if row.teacher is None else row.teacher for row in rows], dtype=np.float64),
            groups=tuple(row.prompt for row in rows),
        )

    @property
    def use_drawn(self) -> bool:
        """Whether the shadow answers are the better source: more of their rows have both outcomes. The two samples are
        never mixed, since only one of them says with which probability it was drawn."""
        return len(self.drawn) >= max(1, sum(row.teacher is not None for row in self.rows))

    def _sample(self) -> list[Row]:
        """The judged rows, one for each judgement: a label that is passed on to all records with the same messages is
        one draw, and else what is asked often would count as often."""
        own = {row.prompt for row in self.rows if not row.passed_on}
        left = Counter(self.judged)
        found = []
        for row in self.rows:
            if row.passed_on:
                if row.prompt in own or left[row.prompt] <= 0:
                    continue
                left[row.prompt] -= 1
            found.append(row)
        return found

    def _unseen_from(self, rows: list[Row]) -> float:
        """As `Pairs.unseen_from`: judgements of delivered answers, and shadow answers to the student's requests alone,
        know nothing of what was escalated."""
        escalated = any(row.escalated for row in rows)
        seen = escalated and not any(row.by_score for row in rows)
        return math.inf if seen else self.traffic.escalated_from

    def pairs(self, min_propensity: float = 1.0) -> tuple[Pairs, bool]:
        """Rows with a score and both outcomes, and whether the teacher was taken to be always right.

        Args:
            min_propensity: with which any request could have been drawn; 1 = that of the rows.

        Where the teacher's answer was not judged, the loss against a teacher without errors is an upper bound. Leaving
        such rows out would leave a sample of what was escalated: there the teacher's answer is always known.
        """
        rows = [row for row in (self.drawn if self.use_drawn else self._sample()) if row.score is not None]
        assumed = not any(row.teacher is not None for row in rows)
        self.counts["teacher_assumed"] = sum(row.teacher is None for row in rows)
        least = min((row.weight for row in rows), default=1.0)
        lost = [(1.0 if row.teacher is None else row.teacher) - row.outcome for row in rows]
        self.counts["assumed_wrong"] = sum(row.assumed_wrong for row in rows)
        if not assumed:  # a teacher without errors is better than any, whatever it states
            self.traffic.fingerprints = set().union(*(row.fingerprints for row in rows))
        self.traffic.labelled_s = [row.created_s for row in rows]
        pairs = Pairs(
            ids=tuple(row.decision_id for row in rows),
            score=np.array([row.score for row in rows], dtype=np.float64),
            loss=np.array(lost, dtype=np.float64),
            weight=np.array([row.weight / least for row in rows], dtype=np.float64),
            tag=tuple(row.tag for row in rows),
            most_weight=1.0 / (min_propensity * least) if self.use_drawn else 1.0,
            unseen_from=self._unseen_from(rows),
        )
        return pairs, assumed
