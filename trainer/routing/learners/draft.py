"""The cascade's score: E[strong - weak] of a draft, from the weak model's own signals and the text of the prompt.

One recipe for all pairs of models, with fixed settings. The mean of regressions that bend on the ranks of the signals
and on what is missing (draft_basis.py), for three chances whose combination is what escalating wins (draft_heads.py),
of a forest (draft_forest.py), and of the reference, which counts the more the fewer the rows are (draft_line.py).
Regressions and forest see the structure of the text; the regressions see what its words say of how well either model
answers, too (draft_text.py). It does without the text and with a single signal as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from policies.calibration import Calibrator
from policies.scoring import text
from policies.scoring.model import ScoreArtefact, TrainingData
from policies.scoring.text import STRUCTURE_NAMES
from trainer.routing.learners import draft_text
from trainer.routing.learners.draft_basis import Basis
from trainer.routing.learners.draft_forest import SIGNAL_COPIES, Forest
from trainer.routing.learners.draft_heads import FURTHER_RIDGE, Further, Heads
from trainer.routing.learners.draft_line import line, weights
from trainer.routing.learners.draft_text import WordEstimate
from trainer.routing.learners.prompt import calibrated, texts_of
from trainer.routing.learners.reference import Reference, ReferenceScorer
from trainer.routing.outcomes import Bools, Floats, Ints, Outcomes

INNER_FOLDS = 3
LEVEL_RIDGE = 10.0
"""Of each word that a signal may be: there are many, and few rows have any one of them."""
STRUCTURE_RIDGE = 300.0
"""Of each of the text's structural features: there are many, and each says little."""
ESTIMATES = ("part_0", "part_1")
"""What the words say of the weak and of the strong model, as inputs of the parts that follow in an artefact."""


@dataclass(frozen=True)
class Levels:
    """Signals that are words, as columns of 0 and 1."""

    values: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, rows: Outcomes) -> Levels:
        return cls(tuple((name, tuple(sorted(set(words)))) for name, words in sorted(rows.categorical.items())))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{name}={level}" for name, levels in self.values for level in levels)

    def columns(self, rows: Outcomes) -> Floats:
        """[n, levels]; a word that was not among the training rows is none of them."""
        found = [
            np.array([word == level for word in rows.categorical[name]], dtype=np.float64)
            for name, levels in self.values
            for level in levels
        ]
        return np.column_stack([np.empty((len(rows), 0)), *found])


@dataclass(frozen=True, eq=False)
class Inputs:
    """What both models see of rows. The columns of each part stand in the order of `names`."""

    signals: Floats
    """[n, k], NaN = missing"""
    levels: Floats
    estimates: Floats
    """[n, 2], or [n, 0] without the text."""
    structure: Floats

    @property
    def further(self) -> Floats:
        """Beside the signals in the regressions."""
        return np.column_stack([self.levels, self.estimates, self.structure])

    @property
    def of_forest(self) -> Floats:
        """Without the levels: the forest draws few inputs at a node, and a dozen rare words would crowd the signals
        out."""
        return np.column_stack([*[self.signals] * SIGNAL_COPIES, self.structure])


@dataclass(frozen=True, eq=False)
class Names:
    """Of the columns of `Inputs`."""

    signals: tuple[str, ...]
    levels: tuple[str, ...]
    estimates: tuple[str, ...]
    structure: tuple[str, ...]

    @property
    def further(self) -> tuple[str, ...]:
        return (*self.levels, *self.estimates, *self.structure)

    @property
    def of_forest(self) -> tuple[str, ...]:
        return (*self.signals * SIGNAL_COPIES, *self.structure)

    @property
    def ridge(self) -> Floats:
        """Of `further` in the regressions."""
        ridges = (LEVEL_RIDGE, self.levels), (FURTHER_RIDGE, self.estimates), (STRUCTURE_RIDGE, self.structure)
        return np.array([ridge for ridge, columns in ridges for _ in columns])


@dataclass(frozen=True, eq=False)
class DraftScorer:
    """P(strong better) of drafts."""

    learner: str
    names: Names
    levels: Levels
    words: tuple[WordEstimate, ...]
    """Of the weak and of the strong model; none without the text."""
    heads: Heads
    forest: Forest
    reference: ReferenceScorer
    weights: Floats
    """[3], of regressions, forest and reference."""
    calibrator: Calibrator

    def score(self, rows: Outcomes) -> Floats:
        inputs = self._inputs(rows)
        regressions = self.heads.raw(self.heads.columns(inputs.signals, inputs.further))
        models = [regressions, self.forest.raw(inputs.of_forest), self.reference.score(rows)]
        raw = np.column_stack(models) @ self.weights
        return np.array([self.calibrator.confidence(value) or 0.0 for value in raw.tolist()])

    def _inputs(self, rows: Outcomes) -> Inputs:
        levels, nothing = self.levels.columns(rows), np.empty((len(rows), 0))
        if not self.words:
            return Inputs(rows.signals, levels, nothing, nothing)
        prompts = draft_text.prompts_of(texts_of(rows))
        estimates = np.column_stack([each.chance(prompts) for each in self.words])
        return Inputs(rows.signals, levels, estimates, prompts.structure)

    def artefact(self, training: TrainingData) -> ScoreArtefact:
        """For the policy `cascade`. Its inputs have the names of the columns: a gateway measures those of
        policies.draft_signals."""
        before = tuple(each.part() for each in self.words)
        after = self.heads.parts(len(before))
        unused = len(before) + len(after) - 1
        regressions, forest, reference = self.weights.tolist()
        return ScoreArtefact(
            text_schema=text.SCHEMA if self.words else None,
            use="draft",
            learner=self.learner,
            inputs=(*self.names.signals, *self.names.levels, *self.names.structure),
            parts=(*before, *after, self.forest.part(), line(self.reference, self.names.signals)),
            weights=(*[0.0] * unused, regressions, forest, reference),
            calibrator=self.calibrator,
            reliability=(),
            ece=0.0,
            training=training,
        )


@dataclass(frozen=True)
class DraftLearner:
    """The recommended learner where there are signals. Its settings are fixed: nothing is chosen inside."""

    name: str = "draft"
    with_text: bool = True
    """Look at the text too, where there is one."""

    def fit(self, rows: Outcomes, *, groups: Ints, seed: int) -> DraftScorer:
        fold_of = np.random.default_rng(seed).permutation(int(groups.max()) + 1)[groups] % INNER_FOLDS
        levels, nothing = Levels.of(rows), np.empty((len(rows), 0))
        words: tuple[WordEstimate, ...] = ()
        names = Names(rows.signal_names, levels.names, (), ())
        inputs = Inputs(rows.signals, levels.columns(rows), nothing, nothing)
        if self.with_text and rows.text is not None:
            words = tuple(draft_text.fit(rows.text, outcome, fold_of) for outcome in (rows.weak, rows.strong))
            estimates = np.column_stack([each.held_out for each in words])
            inputs = Inputs(inputs.signals, inputs.levels, estimates, draft_text.prompts_of(rows.text).structure)
            names = Names(names.signals, names.levels, ESTIMATES, STRUCTURE_NAMES)
        basis = Basis.of(names.signals, rows.signals, rows.weak)
        further = Further.of(names.further, inputs.further, names.ridge)
        columns = np.column_stack([basis.matrix(rows.signals), further.matrix(inputs.further)])
        heads = Heads.fit(basis, further, columns, rows.weak, rows.strong)
        forest = Forest.fit(names.of_forest, inputs.of_forest, rows.weak, rows.strong, seed)
        plain = Reference().fit(rows, groups=groups, seed=seed)
        held_out = [_held_out(heads, columns, rows, fold_of), forest.held_out, plain.score(rows)]
        shares = weights(len(rows))
        calibrator = calibrated(np.column_stack(held_out) @ shares, rows.advantage > 0)
        return DraftScorer(self.name, names, levels, words, heads, forest, plain, shares, calibrator)


def _held_out(heads: Heads, columns: Floats, rows: Outcomes, fold_of: Ints) -> Floats:
    """[n], raw scores by regressions that did not see the row, for the calibration. What the columns themselves have
    seen of the rows is no more than the ranks of the signals."""
    raw = heads.raw(columns)
    for out in _masks(fold_of):
        fitted = Heads.fit(heads.basis, heads.further, columns[~out], rows.weak[~out], rows.strong[~out])
        raw[out] = fitted.raw(columns[out])
    return raw


def _masks(fold_of: Ints) -> Iterator[Bools]:
    """The rows of each fold, unless that is all of them."""
    for fold in np.unique(fold_of).tolist():
        out = fold_of == fold
        if not out.all():
            yield out
