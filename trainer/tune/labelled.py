"""The labelled answers of a student, collected from a traffic log.

A label is a property of the request: it grades the student's draft and the teacher's answer alike, also when it was
given to another record with the same messages. A score judges the one answer that was delivered. Shadow answers are
kept apart: both answers of a request that was drawn with a known probability, each with its grade.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from policies.grading import is_right
from policies.quality.judgements import Judgement, judgements
from policies.record import DecisionRecord, Purpose
from policies.traffic.reader import Place, read
from policies.traffic.sql import open_log
from trainer.evaluation.dataset import prompt_hash
from trainer.tune.drawn import drawn_row, graded_shadows, logprob_of
from trainer.tune.rows import Collected, Grading, Row
from trainer.tune.sealed import Sealed
from trainer.tune.traffic import Score

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


def collect(folder: Path, chosen: Filter, grading: Grading, sealed: Sealed, score: Score | None = None) -> Collected:
    """Read the log in four passes (feedback, shadow answers, labels by prompt, answers); of all texts
    only shadow answers are kept.

    Raises: TrafficError: the folder cannot be read; QueryError: `where` is no condition.
    """
    score = score or Score()
    judged, graded = judgements(folder), graded_shadows(folder)
    damaged: set[Place] = set()
    labels = {
        prompt.exact: judgement.label
        for record in _matching(folder, chosen, damaged)
        if (judgement := judged.of(record)) and judgement.label is not None and (prompt := _prompt(record))
    }
    collected = Collected()
    teacher: dict[str, list[_Judged]] = {}
    for record in _matching(folder, chosen, damaged):
        collected.counts["records"] += 1
        if record.outcome not in ANSWERED:
            continue
        prompt, judgement = _prompt(record), judged.of(record)
        label = judgement.label if judgement else None
        if label is None and prompt is not None:
            label = labels.get(prompt.exact)
        delivered = _delivered_is_right(record, label, judgement, grading)
        judged_itself = judgement is not None and (judgement.label is not None or judgement.score is not None)
        if judged_itself and prompt is not None:
            collected.judged[prompt.exact] += 1
        if record.route == "teacher" and prompt is not None and delivered is not None:
            teacher.setdefault(prompt.exact, []).append(_Judged(delivered, record.backend_fingerprint))
        if chosen.students is not None and record.student not in chosen.students:
            continue
        shadow = graded.get(record.decision_id)
        collected.traffic.add(record, score, logprob_of(record))
        if record.draft is not None or record.route == "student":
            right = _student_is_right(record, label, delivered, grading)
            row = _row(collected, record, prompt, right, sealed, by_logprob=score.policy is None)
            if row is not None:
                found = score.of(record, row.logprob)
                means, tokens = _prefix_means(record)
                collected.rows.append(
                    dataclasses.replace(
                        row,
                        score=found,
                        tag=score.tag_of(record),
                        escalated=record.route == "teacher",
                        by_score=label is None,
                        passed_on=not judged_itself,
                        prefix_means=means,
                        tokens=tokens,
                    )
                )
        if shadow is not None:
            _add_drawn(collected, record, prompt, drawn_row(record, shadow, label, score, grading), sealed)
    collected.counts["damaged"] = len(damaged)
    # Whatever order the log is read in, the result is the same.
    collected.rows.sort(key=lambda row: row.decision_id)
    collected.drawn.sort(key=lambda row: row.decision_id)
    collected.rows = [_with_teacher(row, teacher.get(row.prompt)) for row in collected.rows]
    return collected


def _add_drawn(
    collected: Collected, record: DecisionRecord, prompt: _Prompt | None, row: Row | None, sealed: Sealed
) -> None:
    if row is None or (sealed and prompt is None) or (record.draft is not None and record.draft.prefix):
        return
    if prompt is not None and prompt.loose in sealed.prompts:
        collected.sealed_ids.append(record.decision_id)
        return
    collected.drawn.append(row if prompt is None else dataclasses.replace(row, prompt=prompt.exact))


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


class _Judged(NamedTuple):
    """An answer of the teacher."""

    right: bool
    fingerprint: str | None


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
    logprob = logprob_of(record)
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


def _with_teacher(row: Row, answers: list[_Judged] | None) -> Row:
    if not answers:
        return row
    return dataclasses.replace(
        row,
        teacher=sum(each.right for each in answers) / len(answers),
        fingerprints=frozenset(each.fingerprint for each in answers if each.fingerprint is not None),
    )
