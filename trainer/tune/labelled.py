"""The labelled answers of a student, collected from a traffic log.

A label is a property of the request: it grades the student's draft and the teacher's answer alike, also when it was
given to another record with the same messages. A score judges the one answer that was delivered. Shadow answers are
kept apart: both answers of a request that was drawn with a known probability, each with its grade.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from policies.grading import Grader, is_right
from policies.judgements import Judgement, judgements
from policies.prefix_calibration import Answer as PrefixAnswer
from policies.quality import counted
from policies.record import DecisionRecord, Purpose, ShadowRecord
from policies.traffic import Place, read, shadows
from policies.traffic_sql import open_log
from policies.validity import is_empty
from trainer.evaluation.dataset import prompt_hash
from trainer.tune.pairs import Pairs
from trainer.tune.sealed import Sealed
from trainer.tune.threshold import Answers
from trainer.tune.traffic import Score, Traffic

ANSWERED = frozenset({"ok", "degraded"})


@dataclass(frozen=True)
class Filter:
    """Which records may set the threshold."""

    purposes: frozenset[Purpose] = frozenset({"traffic"})
    tags: Mapping[str, str] = field(default_factory=dict)
    """All of them must be on the record."""
    where: str | None = None
    """SQL condition, as in `locum log query`."""
    students: frozenset[str] | None = None
    """`DecisionRecord.student`; None = any."""


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
        return len(self.drawn) >= sum(row.teacher is not None for row in self.rows) > 0 or not self.rows

    def pairs(self) -> tuple[Pairs, bool]:
        """Rows with a score and both outcomes, and whether the teacher was taken to be always right.

        Where no answer of the teacher was judged, the loss against a teacher without errors is an upper bound.
        """
        rows = [row for row in (self.drawn if self.use_drawn else self.rows) if row.score is not None]
        assumed = not any(row.teacher is not None for row in rows)
        if not assumed:
            rows = [row for row in rows if row.teacher is not None]
        least = min((row.weight for row in rows), default=1.0)
        lost = [(1.0 if row.teacher is None else row.teacher) - row.outcome for row in rows]
        self.traffic.labelled_s = [row.created_s for row in rows]
        pairs = Pairs(
            ids=tuple(row.decision_id for row in rows),
            score=np.array([row.score for row in rows], dtype=np.float64),
            loss=np.array(lost, dtype=np.float64),
            weight=np.array([row.weight / least for row in rows], dtype=np.float64),
            tag=tuple(row.tag for row in rows),
        )
        return pairs, assumed


def collect(folder: Path, chosen: Filter, grading: Grading, sealed: Sealed, score: Score | None = None) -> Collected:
    """Read the log in four passes (feedback, shadow answers, labels by prompt, answers); no text is kept.

    Raises: TrafficError: the folder cannot be read; QueryError: `where` is no condition.
    """
    score = score or Score()
    judged, graded = judgements(folder), _graded(folder)
    damaged: set[Place] = set()
    labels = {
        prompt.exact: judgement.label
        for record in _matching(folder, chosen, damaged)
        if (judgement := judged.of(record)) and judgement.label is not None and (prompt := _prompt(record))
    }
    collected = Collected()
    teacher: dict[str, list[bool]] = {}
    for record in _matching(folder, chosen, damaged):
        collected.counts["records"] += 1
        if record.outcome not in ANSWERED:
            continue
        prompt, judgement = _prompt(record), judged.of(record)
        label = judgement.label if judgement else None
        if label is None and prompt is not None:
            label = labels.get(prompt.exact)
        delivered = _delivered_is_right(record, label, judgement, grading)
        if record.route == "teacher" and prompt is not None and delivered is not None:
            teacher.setdefault(prompt.exact, []).append(delivered)
        if chosen.students is not None and record.student not in chosen.students:
            continue
        shadow = graded.get(record.decision_id)
        collected.traffic.add(record, score, _logprob(record))
        if record.draft is not None or record.route == "student":
            right = _student_is_right(record, label, delivered, grading)
            row = _row(collected, record, prompt, right, sealed, by_logprob=score.policy is None)
            if row is not None:
                found = score.of(record, row.logprob)
                means, tokens = _prefix_means(record)
                collected.rows.append(
                    dataclasses.replace(row, score=found, tag=score.tag_of(record), prefix_means=means, tokens=tokens)
                )
        if shadow is not None:
            _add_drawn(collected, record, shadow, prompt, score, grading, sealed)
    collected.counts["damaged"] = len(damaged)
    # Whatever order the log is read in, the result is the same.
    collected.rows.sort(key=lambda row: row.decision_id)
    collected.drawn.sort(key=lambda row: row.decision_id)
    collected.rows = [_with_teacher(row, teacher.get(row.prompt)) for row in collected.rows]
    return collected


def _graded(folder: Path) -> dict[str, ShadowRecord]:
    """Shadow answers with a grade of both, by the request; the last one counts."""
    found: dict[str, ShadowRecord] = {}
    for shadow in shadows(folder):
        grade = counted(shadow.grades) if shadow.status == "ok" else None
        if grade is not None and grade.student is not None and grade.teacher is not None:
            found[shadow.decision_id] = shadow
    return found


def _add_drawn(
    collected: Collected, record: DecisionRecord, shadow: ShadowRecord, prompt: _Prompt | None, score: Score,
    grading: Grading, sealed: Sealed,
) -> None:  # fmt: skip
    grade = counted(shadow.grades)
    assert grade is not None and grade.student is not None  # noqa: S101 - see `_graded`
    logprob = _logprob(record)
    if logprob is None and shadow.asked == "student":
        logprob = shadow.mean_logprob
    found = score.of(record, logprob)
    if found is None or (sealed and prompt is None) or (record.draft is not None and record.draft.prefix):
        return
    if prompt is not None and prompt.loose in sealed.prompts:
        collected.sealed_ids.append(record.decision_id)
        return
    collected.drawn.append(
        Row(
            record.decision_id,
            shadow.student,
            record.decision_id if prompt is None else prompt.exact,
            math.nan if logprob is None else logprob,
            grade.student >= grading.min_score,
            teacher=grade.teacher,
            graded=grade.student,
            score=found,
            tag=score.tag_of(record),
            weight=1.0 / shadow.propensity,
            created_s=record.created_s,
        )
    )


def _matching(folder: Path, chosen: Filter, damaged: set[Place]) -> Iterator[DecisionRecord]:
    for record in _records(folder, chosen.where, damaged):
        if record.purpose in chosen.purposes and all(record.tags.get(k) == v for k, v in chosen.tags.items()):
            yield record


def _records(folder: Path, where: str | None, damaged: set[Place]) -> Iterator[DecisionRecord]:
    """The records of one pass; adds the places that could not be read to `damaged`."""
    if where is None:
        reading = read(folder, kind="decisions")
        for record in reading:
            if isinstance(record, DecisionRecord):
                yield record
        damaged.update(damage.place for damage in reading.damage)
        return
    with open_log(folder) as log:
        yield from log.decisions(where=where)
        damaged.update(damage.place for damage in log.damage)


@dataclass(frozen=True)
class _Prompt:
    exact: str
    """Of the messages as they are: joins a student's answer with the teacher's."""
    loose: str
    """Of what was said: is compared with the sealed sets."""


class _Request(msgspec.Struct):
    messages: list[dict[str, Any]]


_request = msgspec.json.Decoder(_Request).decode


def _prompt(record: DecisionRecord) -> _Prompt | None:
    """None where the request was not captured, or is no chat."""
    if record.request is None:
        return None
    try:
        messages = _request(record.request).messages
    except msgspec.MsgspecError:
        return None
    exact = hashlib.sha256(msgspec.json.encode(messages, order="sorted")).hexdigest()
    return _Prompt(exact, prompt_hash(messages))


def _prefix_means(record: DecisionRecord) -> tuple[tuple[float, ...], int]:
    draft = record.draft
    if draft is None or draft.signals is None:
        return (), 0
    return draft.signals.prefix_means, draft.tokens


def _delivered_is_right(
    record: DecisionRecord, label: str | None, judgement: Judgement | None, grading: Grading
) -> bool | None:
    if label is not None and record.completion is not None:
        return is_right(record.completion, label, grading.grader)
    if judgement is None or judgement.score is None:
        return None
    return judgement.score >= grading.min_score


def _student_is_right(
    record: DecisionRecord, label: str | None, delivered: bool | None, grading: Grading
) -> bool | None:
    """Of the student's answer, thrown away by a cascade or not; None when it is not labelled."""
    if record.draft is not None and record.draft.text is not None and label is not None:
        return is_right(record.draft.text, label, grading.grader)
    return delivered if record.route == "student" else None


def _row(
    collected: Collected,
    record: DecisionRecord,
    prompt: _Prompt | None,
    right: bool | None,
    sealed: Sealed,
    *,
    by_logprob: bool,
) -> Row | None:
    """None where the answer cannot be used; what for is counted."""
    logprob = _logprob(record)
    counts = collected.counts
    if record.draft is not None and record.draft.prefix:
        counts["prefix"] += 1  # cut off where it was rejected, and whole only where it was not
    elif right is None:
        counts["unlabelled"] += 1
    elif logprob is None and by_logprob:
        counts["without_logprob"] += 1
    elif sealed and prompt is None:
        counts["not_comparable"] += 1
    elif prompt is not None and prompt.loose in sealed.prompts:
        collected.sealed_ids.append(record.decision_id)
    else:
        key = record.decision_id if prompt is None else prompt.exact
        known = math.nan if logprob is None else logprob
        return Row(record.decision_id, record.student, key, known, right, created_s=record.created_s)
    return None


def _logprob(record: DecisionRecord) -> float | None:
    """Of the student's answer; NaN for an empty one, None where there should be one and is none."""
    if record.draft is not None:
        text, finish_reason, logprob = record.draft.text, record.draft.finish_reason, record.draft.mean_logprob
    elif record.route == "student":
        text, finish_reason, logprob = record.completion, record.finish_reason, record.mean_logprob
    else:
        return None
    if is_empty(text, finish_reason):
        return math.nan
    return logprob if logprob is not None and math.isfinite(logprob) else None


def _with_teacher(row: Row, outcomes: list[bool] | None) -> Row:
    return dataclasses.replace(row, teacher=sum(outcomes) / len(outcomes)) if outcomes else row
