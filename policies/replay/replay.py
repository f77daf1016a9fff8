"""One selection of a log, and the documents that are tried on it.

log = LogReader(Path("traffic"), score_text=scorer_of(active)).read()
replay = Replay(log, active)
replay.report(candidate)                     # policies/replay/report.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from policies.chain import PolicyChain
from policies.long_reasoning import LongReasoning
from policies.record import DecisionRecord
from policies.replay.annotations import Annotations, annotations_of
from policies.replay.columns import STUDENT, TEACHER, UNKNOWN, Columns, Flags, Floats
from policies.replay.estimators import Estimator
from policies.replay.evaluate import Verdicts, evaluate, reviews, vectorisable, window_of
from policies.replay.outcomes import cost_of, designs_of, latency_of, quality_by_feedback, quality_by_shadows
from policies.replay.report import Evidence, Measured, Report, report
from policies.replay.review import Drafts
from policies.replay.scalar import evaluate_records
from policies.replay.source import Log

SHORT_WINDOW_S = 86_400.0
FEW_DRAWN = 0.8
"""Below this share of its requests a graded sample is said to be incomplete."""
Records = Callable[[], Iterable[DecisionRecord]]
"""Reads the log once more, whole records."""


class NothingToReplay(ValueError):
    """No record of the log is left to replay. The message says why."""


class RecordsNeeded(ValueError):
    """A policy has no form on columns, and the records cannot be read once more."""


@dataclass(frozen=True)
class Selection:
    """Which records count."""

    since_s: float | None = None
    until_s: float | None = None
    tags: tuple[tuple[str, str], ...] = ()
    """All of them are on the request."""
    student: str | None = None
    """Bundle id; None: that of the newest record."""
    purpose: str = "traffic"


EVERYTHING = Selection()


def scorer_of(chain: PolicyChain) -> Callable[[str], float] | None:
    """What the `long_reasoning` of a chain makes of a text; None: it has none."""
    for policy in chain.policies:
        if type(policy) is LongReasoning:
            return policy._fitted.scorer.score
    return None


class Replay:
    """Ready for any number of documents."""

    def __init__(
        self,
        log: Log,
        logged: PolicyChain | None,
        selection: Selection = EVERYTHING,
        *,
        estimator: Estimator = "dr",
        records: Records | None = None,
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        """
        Args:
            logged: the document that was in force: it tells by which window streams were judged, and whose scores of
                texts the columns have.
            records: for documents with policies of others.
        Raises:
            NothingToReplay.
        """
        self._logged = logged
        self._records = records
        self._progress = progress
        self.warnings: list[str] = []
        if log.damaged:
            self.warnings.append(f"{log.damaged} lines of the log are damaged: left out; see `locum log verify`")
        if log.left_out:
            self.warnings.append(f"{log.left_out} older records were not read: the newest are enough")
        columns = self._selected(log.columns, selection)
        notes = annotations_of(columns, log.shadows, log.feedback)
        designs = designs_of(columns)
        part = _draft_part(columns)
        quality = None
        if notes.graded:
            quality = quality_by_shadows(columns, notes, designs)
        elif len(notes.feedback_rows):
            quality = quality_by_feedback(columns, notes, designs)
        self.evidence = Evidence(
            columns=columns,
            notes=notes,
            designs=designs,
            quality=Measured.by(estimator, quality.filled()) if quality is not None else None,
            cost=Measured.by(estimator, cost_of(columns, notes, designs)),
            latency=Measured.by("dr", latency_of(columns, designs, part)),
            estimator=estimator,
            draft_part=part,
            window_s=float(np.ptp(columns.created_s)),
        )
        self._note_evidence()

    @property
    def records(self) -> int:
        return len(self.evidence.columns)

    @property
    def labels(self) -> int:
        return self.evidence.quality.outcome.labels if self.evidence.quality is not None else 0

    def report(self, chain: PolicyChain) -> Report:
        """What a document would have done. Raises: RecordsNeeded."""
        columns, notes = self.evidence.columns, self.evidence.notes
        says = np.full(len(columns), np.nan)
        if chain.reviewers and len(notes.rows) and not vectorisable(chain):
            says[notes.rows] = _shadow_reviews(chain, columns, notes)
        return report(self.evidence, self.verdicts(chain), says)

    def verdicts(self, chain: PolicyChain) -> Verdicts:
        """Where a document sends every request. Raises: RecordsNeeded."""
        slow = vectorisable(chain)
        if not slow and self._same_scores(chain):
            return evaluate(chain, self.evidence.columns, self._logged)
        if self._records is None:
            raise RecordsNeeded(
                f"{', '.join(slow) or 'long_reasoning with other weights'} needs the records themselves"
            )
        return evaluate_records(chain, self.evidence.columns, self._records(), self._logged, self._progress)

    def _same_scores(self, chain: PolicyChain) -> bool:
        """Whether the scores in the columns are those of this chain's `long_reasoning`."""
        wanted = [policy for policy in chain.policies if type(policy) is LongReasoning]
        if not wanted or self._logged is None:
            return True
        given = [policy for policy in self._logged.policies if type(policy) is LongReasoning]
        same = ("weights", "embedding_weights")
        return not given or all(getattr(wanted[0], name) == getattr(given[0], name) for name in same)

    def _selected(self, columns: Columns, selection: Selection) -> Columns:
        """The rows that count; says which do not."""
        rows = columns.purpose == columns.code_of(selection.purpose)
        if selection.since_s is not None:
            rows &= columns.created_s >= selection.since_s
        if selection.until_s is not None:
            rows &= columns.created_s < selection.until_s
        if selection.tags and len(columns):
            wanted = [set(selection.tags) <= set(each) for each in columns.tag_sets]
            rows &= np.array(wanted, np.bool_)[columns.tags]
        if not rows.any():
            raise NothingToReplay(f"The log has no record with the purpose {selection.purpose!r} in this selection.")
        rows &= self._of_student(columns, rows, selection.student)
        self._note(rows & ~columns.answered, "requests got no answer")
        self._note(rows & columns.cached, "answers came from the cache")
        rows &= columns.answered & ~columns.cached
        if not rows.any():
            raise NothingToReplay("The log has no answered request in this selection.")
        fell_back = int((rows & columns.fell_back).sum())
        if fell_back:
            self.warnings.append(
                f"{fell_back} answers came from another model than was chosen (a failure or a spent budget): they "
                "count with the models that the documents choose for them"
            )
        continued = int((rows & columns.continued).sum())
        if continued:
            self.warnings.append(
                f"{continued} answers were begun by the student and ended by a teacher: how good they were counts for "
                "neither"
            )
        return columns.take(np.flatnonzero(rows))

    def _note(self, rows: Flags, what: str) -> None:
        count = int(rows.sum())
        if count:
            self.warnings.append(f"{count} {what}: left out")

    def _of_student(self, columns: Columns, rows: Flags, student: str | None) -> Flags:
        newest = np.flatnonzero(rows)[np.argmax(columns.created_s[rows])]
        code = int(columns.student[newest]) if student is None else columns.code_of(student)
        same: Flags = columns.student == code
        others = int((rows & ~same).sum())
        if others == int(rows.sum()):
            raise NothingToReplay(f"The log has no record of the student {student!r} in this selection.")
        if others:
            self.warnings.append(
                f"{others} records were made under another student: only those of {columns.names[code]!r} count"
            )
        teachers = [columns.names[each] for each in np.unique(columns.teacher[rows & same])]
        if len(teachers) > 1:
            self.warnings.append(f"the log has answers of several teachers: {', '.join(sorted(teachers))}")
        return same

    def _note_evidence(self) -> None:
        """What weakens the estimates of every document."""
        evidence, notes = self.evidence, self.evidence.notes
        if evidence.quality is None:
            self.warnings.append("quality is not estimated: nothing is graded, neither by shadows nor by feedback")
        elif not notes.graded:
            self.warnings.append("quality rests on feedback: whoever gives it is no random sample. Shadow sampling is")
        else:
            self._note_sample()
        if notes.against_teacher:
            self.warnings.append(
                f"{notes.against_teacher} grades compare with the teacher's answer, which counts as right: quality is "
                "agreement with the teacher there"
            )
        if not (notes.ok & ~np.isnan(notes.cost_usd)).any() and not evidence.cost.outcome.supported.all():
            self.warnings.append(
                "what the other model would have cost is reckoned with the tokens of the one that answered: no shadow "
                "tells how long its answers are"
            )
        if evidence.window_s < SHORT_WINDOW_S:
            self.warnings.append("the log spans less than a day: figures for a month say little")

    def _note_sample(self) -> None:
        drawn = self.evidence.notes.drawn
        missing = sum(count for status, count in drawn.items() if status != "ok")
        if missing > (1 - FEW_DRAWN) * sum(drawn.values()):
            causes = ", ".join(f"{status} {count}" for status, count in drawn.most_common() if status != "ok")
            self.warnings.append(
                f"{missing} of {sum(drawn.values())} drawn requests were not answered by the other model ({causes}): "
                "the estimates hold as far as the cause has nothing to do with quality"
            )


def _draft_part(columns: Columns) -> Floats:
    """How much of the student's time passes before a draft is judged: all of a plain answer, of a stream the time to
    its first token."""
    own = (columns.route == STUDENT) & columns.stream & ~np.isnan(columns.ttft_s) & (columns.latency_s > 0)
    part = float((columns.ttft_s[own] / columns.latency_s[own]).mean()) if own.any() else 1.0
    return np.where(columns.stream, min(1.0, part), 1.0)


def _shadow_reviews(chain: PolicyChain, columns: Columns, notes: Annotations) -> Floats:
    """Whether the reviewers would call the teacher in on the student's answers in the shadows; NaN: not known.

    A shadow is an answer in one piece. Of a stream its first tokens would be judged: known where it is no longer.
    """
    window = window_of(chain)
    within = (notes.tokens >= 0) & (notes.tokens <= (window or 0))
    usable = notes.ok & ~np.isnan(notes.logprob) & (columns.route[notes.rows] == TEACHER)
    usable &= ~columns.stream[notes.rows] | within
    no = np.zeros(len(usable), np.bool_)
    drafts = Drafts(
        known=usable,
        logprob=notes.logprob,
        finish=notes.finish.astype(np.int8),
        empty=no,
        prefix=no,
        failed=np.full(len(usable), UNKNOWN),
        agreement=np.full(len(usable), np.nan),
        tokens=notes.tokens,
        cut=no,
    )
    escalated, _, _ = reviews(chain, drafts, usable)
    return np.where(usable, escalated.astype(np.float64), np.nan)
