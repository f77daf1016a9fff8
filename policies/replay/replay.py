"""Replay: a policy document evaluated on logged traffic.

log = load(Path("traffic"), score_text=scorer_of(active))
replay = Replay(log, logged=active, student="student-7")
replay.report(candidate)                     # policies/replay/report.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from policies.chain import PolicyChain
from policies.long_reasoning import LongReasoning
from policies.record import DecisionRecord, FeedbackRecord, ShadowRecord
from policies.replay.columns import STUDENT, TEACHER, Columns, ColumnsBuilder, Flags, Floats
from policies.replay.estimators import Estimator
from policies.replay.evaluate import Verdicts, evaluate
from policies.replay.outcomes import (
    Annotations,
    annotations_of,
    cost_of,
    design_of,
    latency_of,
    quality_of,
)
from policies.replay.report import Evidence, Report, report
from policies.replay.review import Drafts, cascade
from policies.traffic import read

MIN_RECORDS = 1
SHORT_WINDOW_S = 86_400.0


class NothingToReplay(ValueError):
    """No record of the log is left to replay. The message says why."""


@dataclass
class Log:
    """A log as replay needs it."""

    columns: Columns
    shadows: list[ShadowRecord] = field(default_factory=list)
    feedback: list[FeedbackRecord] = field(default_factory=list)
    damage: int = 0


@dataclass(frozen=True)
class Selection:
    """Which records count."""

    since_s: float | None = None
    until_s: float | None = None
    tags: tuple[tuple[str, str], ...] = ()
    student: str | None = None
    """Bundle id; None: that of the newest record."""
    purpose: str = "traffic"


def load(folder: Path, score_text: Callable[[str], float] | None = None) -> Log:
    """Read a traffic folder. Raises: TrafficError."""
    builder = ColumnsBuilder(score_text)
    log = Log(builder.build())
    reading = read(folder)
    for stored, record in reading.placed():
        if isinstance(record, DecisionRecord):
            builder.add(stored.payload)
        elif isinstance(record, ShadowRecord):
            log.shadows.append(msgspec.structs.replace(record, completion=None))
        elif isinstance(record, FeedbackRecord) and record.score is not None:
            log.feedback.append(record)
    log.columns = builder.build()
    log.damage = len(reading.damage)
    return log


def scorer_of(chain: PolicyChain) -> Callable[[str], float] | None:
    """What `long_reasoning` of a chain makes of a text."""
    for policy in chain.policies:
        if type(policy) is LongReasoning:
            return policy._fitted.scorer.score
    return None


class Replay:
    """One selection of a log, ready for any number of documents."""

    def __init__(self, log: Log, logged: PolicyChain | None, selection: Selection = Selection()) -> None:
        """
        Args:
            logged: the document that was in force.
        Raises:
            NothingToReplay.
        """
        self.logged = logged
        self.warnings: list[str] = []
        columns = self._selected(log.columns, selection)
        notes = annotations_of(columns, log.shadows, log.feedback)
        design = design_of(columns)
        part = _draft_part(columns)
        graded = int((~np.isnan(notes.quality)).any(axis=1).sum())
        use_feedback = graded == 0 and len(notes.feedback_rows) > 0
        self.labels = graded if not use_feedback else len(notes.feedback_rows)
        if use_feedback:
            self.warnings.append(
                "quality rests on feedback: whoever gives it is no random sample of the requests. Shadow sampling is"
            )
        elif not graded:
            self.warnings.append(
                "quality is not estimated: the log has neither graded shadows nor feedback with scores"
            )
        self.evidence = Evidence(
            columns=columns,
            notes=notes,
            quality=quality_of(columns, notes, design, use_feedback=use_feedback) if self.labels else None,
            cost=cost_of(columns, notes, design),
            latency=latency_of(columns, design, part),
            design=design,
            draft_part=part,
            window_s=float(np.ptp(columns.created_s)),
        )
        if self.evidence.window_s < SHORT_WINDOW_S:
            self.warnings.append("the log spans less than a day: figures for a month say little")

    @property
    def records(self) -> int:
        return len(self.evidence.columns)

    def report(self, chain: PolicyChain, estimator: Estimator = "dr") -> Report:
        """What a document would have done. Raises: NotVectorised."""
        columns, notes = self.evidence.columns, self.evidence.notes
        verdicts = evaluate(chain, columns, self.logged)
        says = np.full(len(columns), np.nan)
        if len(notes.rows) and chain.reviewers:
            says[notes.rows] = _shadow_reviews(chain, columns, notes)
        return report(self.evidence, verdicts, says, estimator)

    def verdicts(self, chain: PolicyChain) -> Verdicts:
        return evaluate(chain, self.evidence.columns, self.logged)

    def _selected(self, columns: Columns, selection: Selection) -> Columns:
        """The rows that count; says which do not."""
        rows = columns.purpose == columns.code_of(selection.purpose)
        if selection.since_s is not None:
            rows &= columns.created_s >= selection.since_s
        if selection.until_s is not None:
            rows &= columns.created_s < selection.until_s
        if selection.tags:
            wanted = [set(selection.tags) <= set(each) for each in columns.tag_sets]
            rows &= np.array(wanted, np.bool_)[columns.tags] if wanted else np.zeros(len(columns), np.bool_)
        if not rows.any():
            raise NothingToReplay("no record of real traffic is in this selection")
        rows &= self._of_student(columns, rows, selection.student)
        self._note(rows & ~columns.answered, "requests got no answer")
        self._note(rows & columns.cached, "answers came from the cache")
        rows &= columns.answered & ~columns.cached
        if not rows.any():
            raise NothingToReplay("no answered request is in this selection")
        found = np.flatnonzero(rows)
        fell_back = int(columns.fell_back[found].sum())
        if fell_back:
            self.warnings.append(
                f"{fell_back} answers came from another model than was chosen (a fall back or a spent budget): they "
                "count as requests, and by their grades, not by their latency"
            )
        return columns.take(found)

    def _note(self, rows: Flags, what: str) -> None:
        count = int(rows.sum())
        if count:
            self.warnings.append(f"{count} {what}: left out")

    def _of_student(self, columns: Columns, rows: Flags, student: str | None) -> Flags:
        newest = np.flatnonzero(rows)[np.argmax(columns.created_s[rows])]
        code = int(columns.student[newest]) if student is None else columns.code_of(student)
        others = int((rows & (columns.student != code)).sum())
        if others == int(rows.sum()):
            raise NothingToReplay(f"no record is of the student {student!r}: let it serve some traffic first")
        if others:
            self.warnings.append(
                f"{others} records were made under another student: only those of {columns.names[code]!r} count"
            )
        teachers = {columns.names[each] for each in np.unique(columns.teacher[rows & (columns.student == code)])}
        if len(teachers) > 1:
            self.warnings.append(f"the log has answers of several teachers: {', '.join(sorted(teachers))}")
        return columns.student == code


def _draft_part(columns: Columns) -> Floats:
    """How much of the student's time passes before a draft is judged: all of a plain answer, of a stream the time to
    its first token."""
    own = (columns.route == STUDENT) & columns.stream & ~np.isnan(columns.ttft_s) & (columns.latency_s > 0)
    part = float((columns.ttft_s[own] / columns.latency_s[own]).mean()) if own.any() else 1.0
    return np.where(columns.stream, min(1.0, part), 1.0)


def _shadow_reviews(chain: PolicyChain, columns: Columns, notes: Annotations) -> Floats:
    """Whether the reviewers would call the teacher in on the student's answers in the shadows; NaN: not known."""
    size = len(notes.rows)
    asked_student = columns.route[notes.rows] == TEACHER
    usable = asked_student & notes.ok & ~np.isnan(notes.logprob) & ~columns.stream[notes.rows]
    no = np.zeros(size, np.bool_)
    drafts = Drafts(usable, notes.logprob, notes.finish.astype(np.int8), no, no)
    says = np.where(usable, 0.0, np.nan)
    silent = usable.copy()
    for reviewer in chain.reviewers:
        votes = cascade(reviewer, drafts)  # type: ignore[arg-type]
        said = silent & (votes.route != 0)
        says[said & (votes.route == TEACHER)] = 1.0
        silent &= ~said
    return says
