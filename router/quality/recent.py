"""What feedback has told this process lately."""

from __future__ import annotations

from collections import OrderedDict

from policies.record import DecisionRecord, FeedbackRecord

MAX_DECISIONS = 10_000


class RecentFeedback:
    """Labels by decision, for graders, and which decisions have a score. Bounded: the oldest is forgotten."""

    def __init__(self, max_decisions: int = MAX_DECISIONS) -> None:
        self._max_decisions = max_decisions
        self._labels: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._scored: OrderedDict[tuple[str, str], None] = OrderedDict()

    def add(self, feedback: FeedbackRecord) -> bool:
        """Whether it holds the first score that this process hears of its decision from that tenant."""
        key = feedback.tenant, feedback.decision_id
        if feedback.label is not None:
            self._labels[key] = feedback.label
            _trim(self._labels, self._max_decisions)
        if feedback.score is None or key in self._scored:
            return False
        self._scored[key] = None
        _trim(self._scored, self._max_decisions)
        return True

    def label_of(self, record: DecisionRecord) -> str | None:
        """The newest label of a decision, given by its own tenant."""
        return self._labels.get((record.tenant, record.decision_id))


def _trim(entries: OrderedDict[tuple[str, str], str] | OrderedDict[tuple[str, str], None], limit: int) -> None:
    while len(entries) > limit:
        entries.popitem(last=False)
