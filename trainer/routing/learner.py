"""What a learner of a routing policy is: it is fitted on rows with outcomes and scores rows without looking at theirs.

A learner may hold no state between two fits: it is fitted once a fold, in several processes (so it must pickle), and
on equal rows, groups and seed it must score equally.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from policies.scoring.model import ScoreArtefact, TrainingData
from trainer.routing.outcomes import Floats, Ints, Outcomes


class Scorer(Protocol):
    """What a fit leaves behind."""

    def score(self, rows: Outcomes) -> Floats:
        """Estimates E[strong - weak] of each row, up to a monotone map that is the same in all folds.

        May use only `text`, `signals` and `categorical` of the rows.

        Returns:
            [n], in [0, 1]; higher means teacher. Calibrated as P(strong better): the rows of all folds are ranked
            together, and the report's calibration error is against that event.
        """
        ...


@runtime_checkable
class Learner(Protocol):
    """One way to learn a score. The choice among its variants is made inside `fit`, on the rows it is given."""

    @property
    def name(self) -> str:
        """In snake_case: the name of its column."""
        ...

    def fit(self, rows: Outcomes, *, groups: Ints, seed: int) -> Scorer:
        """Learn from labelled rows.

        Args:
            rows: `strong - weak` takes at least two values among them.
            groups: [n], rows of one number are near-duplicates: an inner split may not part them.
        """
        ...


@runtime_checkable
class Exportable(Protocol):
    """A scorer that a policy can decide with."""

    def artefact(self, training: TrainingData) -> ScoreArtefact:
        """The fitted score as a file, for `difficulty` or `cascade`.

        Only what was learned: `reliability`, `ece`, `measures` and `default_threshold` are those of the cross-fitted
        scores, and the caller puts them in (give `()` and 0.0).
        """
        ...
