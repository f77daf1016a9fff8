"""The cascade's score: E[strong - weak] of a draft, from the weak model's own signals and the text of the prompt.

One recipe for all pairs of models, with fixed settings: regressions that bend on the ranks of the signals and on what
is missing (draft_basis.py), for three chances whose combination is what escalating wins (draft_heads.py), and estimates
from the text of how well each model answers (draft_text.py). It does without the text and with a single signal as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.calibration import Calibrator
from policies.scoring import text
from policies.scoring.model import ScoreArtefact, TrainingData
from policies.scoring.text import STRUCTURE_NAMES
from trainer.routing.learners.draft_basis import Basis
from trainer.routing.learners.draft_heads import FURTHER_RIDGE, Further, Heads
from trainer.routing.learners.draft_text import ESTIMATES, TextModel, cross_fitted
from trainer.routing.learners.prompt import calibrated
from trainer.routing.learners.prompt_features import Prompts
from trainer.routing.outcomes import Floats, Ints, Outcomes

INNER_FOLDS = 5
STRUCTURE_RIDGE = 100.0
"""Of each of the text's structural features: there are many, and each says little."""


@dataclass(frozen=True)
class Levels:
    """Signals that are words, as columns of 0 and 1."""

    values: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, rows: Outcomes) -> Levels:
        return cls(tuple((name, tuple(sorted(set(words)))) for name, words in sorted(rows.categorical.items())))

    @property
    def names(self) -> list[str]:
        return [f"{name}={level}" for name, levels in self.values for level in levels]

    def columns(self, rows: Outcomes) -> Floats:
        """[n, levels]; a word that was not among the training rows is none of them."""
        found = [
            np.array([word == level for word in rows.categorical[name]], dtype=np.float64)
            for name, levels in self.values
            for level in levels
        ]
        return np.column_stack([np.empty((len(rows), 0)), *found])


@dataclass(frozen=True, eq=False)
class Fitted:
    """All but the calibration."""

    levels: Levels
    text: TextModel | None
    heads: Heads

    def score(self, rows: Outcomes) -> Floats:
        """[n], raw."""
        further = self.levels.columns(rows)
        if self.text is not None:
            prompts = Prompts.of(_texts(rows))
            further = np.column_stack([further, self.text.estimates(prompts), prompts.structure])
        return self.heads.raw(
            np.column_stack([self.heads.basis.matrix(rows.signals), self.heads.further.matrix(further)])
        )


@dataclass(frozen=True, eq=False)
class DraftScorer:
    """P(strong better) of drafts."""

    learner: str
    fitted: Fitted
    calibrator: Calibrator

    def score(self, rows: Outcomes) -> Floats:
        raw = self.fitted.score(rows)
        return np.array([self.calibrator.confidence(value) or 0.0 for value in raw.tolist()])

    def artefact(self, training: TrainingData) -> ScoreArtefact:
        """For the policy `cascade`. Its inputs have the names of the columns: a gateway measures those of
        policies.draft_signals."""
        model, heads = self.fitted.text, self.fitted.heads
        before = () if model is None else model.parts()
        after = heads.parts(len(before))
        names = (*(signal.name for signal in heads.basis.signals), *self.fitted.levels.names)
        return ScoreArtefact(
            text_schema=None if model is None else text.SCHEMA,
            use="draft",
            learner=self.learner,
            inputs=names if model is None else (*names, *STRUCTURE_NAMES),
            parts=(*before, *after),
            weights=(*[0.0] * (len(before) + len(after) - 1), 1.0),
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
        levels = Levels.of(rows)
        words = levels.columns(rows)
        names = [(name,) for name in levels.names]
        ridge = [FURTHER_RIDGE] * len(names)
        model = None
        if self.with_text and rows.text is not None:
            prompts = Prompts.of(rows.text)
            outcomes = np.column_stack([rows.weak, rows.strong])
            model = TextModel.fit(prompts, outcomes, seed)
            words = np.column_stack([words, cross_fitted(prompts, outcomes, fold_of, seed), prompts.structure])
            names += [*ESTIMATES, *((name,) for name in STRUCTURE_NAMES)]
            ridge += [FURTHER_RIDGE] * len(ESTIMATES) + [STRUCTURE_RIDGE] * len(STRUCTURE_NAMES)
        basis = Basis.of(rows.signal_names, rows.signals, rows.weak)
        further = Further.of(names, words, np.array(ridge))
        columns = np.column_stack([basis.matrix(rows.signals), further.matrix(words)])
        heads = Heads.fit(basis, further, columns, rows.weak, rows.strong)
        raw = _held_out(heads, columns, rows, fold_of)
        return DraftScorer(self.name, Fitted(levels, model, heads), calibrated(raw, rows.advantage > 0))


def _held_out(heads: Heads, columns: Floats, rows: Outcomes, fold_of: Ints) -> Floats:
    """[n], raw scores by regressions that did not see the row, for the calibration. What the columns themselves have
    seen of the rows is no more than the ranks of the signals."""
    raw = np.zeros(len(rows))
    for fold in np.unique(fold_of).tolist():
        out = fold_of == fold
        if out.all():
            return heads.raw(columns)
        fitted = Heads.fit(heads.basis, heads.further, columns[~out], rows.weak[~out], rows.strong[~out])
        raw[out] = fitted.raw(columns[out])
    return raw


def _texts(rows: Outcomes) -> Sequence[str]:
    """Raises: ValueError: it was fitted with texts, and the rows have none."""
    if rows.text is None:
        raise ValueError("this score was learned with the prompts: score rows that have theirs")
    return rows.text
