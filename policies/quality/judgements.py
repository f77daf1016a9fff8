"""Feedback joined to decision records: the last judgement of a kind counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from policies.record import DecisionRecord, FeedbackRecord
from policies.traffic.reader import read


@dataclass(frozen=True)
class Judgement:
    """What is known about one answer. Each field is the newest of its kind, whoever gave it."""

    score: float | None = None
    """In [0, 1]: 1 = good."""
    label: str | None = None
    correction: str | None = None
    source: str = ""
    """Who gave the newest of them."""


class Judgements:
    """All feedback of a log, by the record that it is about.

    Two rules protect records: feedback counts only when it comes from the tenant of the record, and its texts (label
    and correction) only when the record was captured in full.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], dict[str, tuple[float, float | str, str]]] = {}

    def add(self, feedback: FeedbackRecord) -> None:
        """The order in which feedback is added does not matter, its time does."""
        kinds = self._kinds.setdefault((feedback.tenant, feedback.decision_id), {})
        for kind in _KINDS:
            value = getattr(feedback, kind)
            if value is not None and (kind not in kinds or kinds[kind][0] <= feedback.created_s):
                kinds[kind] = (feedback.created_s, value, feedback.source)

    def of(self, record: DecisionRecord) -> Judgement | None:
        """The judgement on a record; None when there is none that counts."""
        kinds = self._kinds.get((record.tenant, record.decision_id), {})
        if record.capture != "full":
            kinds = {kind: entry for kind, entry in kinds.items() if kind == "score"}
        if not kinds:
            return None
        score, label, correction = (kinds[kind][1] if kind in kinds else None for kind in _KINDS)
        return Judgement(
            score=score if isinstance(score, float) else None,
            label=label if isinstance(label, str) else None,
            correction=correction if isinstance(correction, str) else None,
            source=max(kinds.values(), key=lambda entry: entry[0])[2],
        )

    def __len__(self) -> int:
        """Judged ids, whether their records are in the log or not."""
        return len(self._kinds)


_KINDS = ("score", "label", "correction")


def judgements(folder: Path) -> Judgements:
    """Collect the feedback of a traffic folder. Raises: TrafficError."""
    collected = Judgements()
    for feedback in read(folder, kind="feedback"):
        if isinstance(feedback, FeedbackRecord):
            collected.add(feedback)
    return collected
