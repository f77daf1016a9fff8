"""Routing before generation: E[strong - weak] of a prompt from its words and its structure.

Two models, averaged. Logistic regressions of "the strong model is right" and of "the weak model is right" on TF-IDF
words and standardised structure: their difference ranks better than one regression of "the strong model is better",
which most rows say nothing about. And a forest of both outcomes on the structure alone, which is what difficulty is
mostly made of. How far either generalises is measured inside the training rows, where the average is calibrated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import LogisticRegression

from policies.calibration import Calibrator, Platt, fit_platt
from policies.scoring import text
from policies.scoring.model import ScoreArtefact, TrainingData
from policies.scoring.models import Linear
from policies.scoring.text import STRUCTURE_NAMES
from trainer.routing.learners.prompt_features import BUCKETS, Columns, Prompts
from trainer.routing.learners.trees import exported
from trainer.routing.outcomes import Bools, Floats, Ints, Outcomes

INNER_FOLDS = 3
"""Out of which the calibrator's raw scores come; they cost as many fits."""
REGULARISATION = 0.3
"""Inverse strength of the logistic regressions."""
STRUCTURE_FACTOR = 0.1
"""Of a standardised column of the structure, against a row of words of length 1."""
N_TREES = 64
LEAF_ROWS = 30
INPUT_SHARE = 0.3
"""Of the inputs, drawn anew at every node."""
OUTPUTS = np.array([1.0, -1.0])
"""Strong less weak."""


@dataclass(frozen=True, eq=False)
class Head:
    """P(a model answers well) by logistic regression."""

    coefficients: Floats
    """[columns]"""
    intercept: float

    @classmethod
    def fit(cls, matrix: sparse.csr_matrix, outcome: Floats) -> Head:
        """An outcome between 0 and 1 counts as that much of a success and the rest of a failure."""
        if np.ptp(outcome) == 0:
            chance = (outcome.sum() + 1) / (len(outcome) + 2)
            return cls(np.zeros(matrix.shape[1]), float(np.log(chance / (1 - chance))))
        part = np.flatnonzero((outcome > 0) & (outcome < 1))
        rows = sparse.vstack([matrix, matrix[part]]).tocsr()
        labels = np.concatenate([outcome > 0, np.zeros(len(part), dtype=np.bool_)])
        weights = np.concatenate([np.where(outcome > 0, outcome, 1.0), 1 - outcome[part]])
        model = LogisticRegression(C=REGULARISATION, solver="liblinear", tol=1e-3)
        model.fit(rows, labels, sample_weight=weights)
        return cls(model.coef_[0], float(model.intercept_[0]))

    def chance(self, matrix: sparse.csr_matrix) -> Floats:
        logits: Floats = matrix @ self.coefficients + self.intercept
        return 1 / (1 + np.exp(-logits))


@dataclass(frozen=True, eq=False)
class PromptModel:
    """The two models, uncalibrated."""

    columns: Columns
    strong: Head
    weak: Head
    forest: ExtraTreesRegressor

    @classmethod
    def fit(cls, prompts: Prompts, weak: Floats, strong: Floats, seed: int) -> PromptModel:
        columns = Columns.of(prompts, STRUCTURE_FACTOR)
        matrix = columns.matrix(prompts)
        forest = ExtraTreesRegressor(
            N_TREES, min_samples_leaf=LEAF_ROWS, max_features=INPUT_SHARE, random_state=seed, n_jobs=1
        )
        forest.fit(prompts.structure, np.column_stack([strong, weak]))
        return cls(columns, Head.fit(matrix, strong), Head.fit(matrix, weak), forest)

    def raw(self, prompts: Prompts) -> Floats:
        """[n], E[strong - weak]: the mean of what the two say."""
        matrix = self.columns.matrix(prompts)
        linear = self.strong.chance(matrix) - self.weak.chance(matrix)
        trees: Floats = self.forest.predict(prompts.structure) @ OUTPUTS
        return (linear + trees) / 2


@dataclass(frozen=True, eq=False)
class PromptScorer:
    """P(strong better) of prompts."""

    model: PromptModel
    calibrator: Calibrator

    def score(self, rows: Outcomes) -> Floats:
        raw = self.model.raw(Prompts.of(texts_of(rows)))
        return np.array([self.calibrator.confidence(value) or 0.0 for value in raw.tolist()])

    def artefact(self, training: TrainingData) -> ScoreArtefact:
        """For the policy `difficulty`."""
        return ScoreArtefact(
            text_schema=text.SCHEMA,
            use="prompt",
            learner=PromptLearner.name,
            inputs=STRUCTURE_NAMES,
            parts=(
                self._linear(self.model.strong),
                self._linear(self.model.weak),
                exported(self.model.forest, STRUCTURE_NAMES, OUTPUTS),
            ),
            weights=(0.5, -0.5, 0.5),
            calibrator=self.calibrator,
            reliability=(),
            ece=0.0,
            training=training,
        )

    def _linear(self, head: Head) -> Linear:
        dense, intercept = self.model.columns.dense(head.coefficients[BUCKETS:])
        return Linear(
            intercept=head.intercept + intercept,
            dense=dense,
            lexical=self.model.columns.lexical(head.coefficients[:BUCKETS]),
            squash=True,
        )


@dataclass(frozen=True)
class PromptLearner:
    """The recommended learner where only the text is known. Its settings are fixed: nothing is chosen inside."""

    name: str = "prompt"

    def fit(self, rows: Outcomes, *, groups: Ints, seed: int) -> PromptScorer:
        prompts = Prompts.of(texts_of(rows))
        raw = np.zeros(len(rows))
        for held_out in inner_folds(groups, seed):
            model = PromptModel.fit(prompts.part(~held_out), rows.weak[~held_out], rows.strong[~held_out], seed)
            raw[held_out] = model.raw(prompts.part(held_out))
        model = PromptModel.fit(prompts, rows.weak, rows.strong, seed)
        return PromptScorer(model, calibrated(raw, rows.advantage > 0))


def inner_folds(groups: Ints, seed: int) -> list[Bools]:
    """Masks of the rows that are held out, each row in one; near-duplicates stay together."""
    fold_of_group = np.random.default_rng(seed).permutation(int(groups.max()) + 1) % INNER_FOLDS
    masks = [fold_of_group[groups] == fold for fold in range(INNER_FOLDS)]
    return [mask for mask in masks if mask.any() and not mask.all()]


def calibrated(raw: Floats, better: Bools) -> Calibrator:
    """Platt's curve: it rises everywhere, so that the ranking stays as fine as the raw scores. Where raw scores rank
    no better than chance its slope may come out negative: then all rows get the mean."""
    if better.all() or not better.any():
        return Platt(slope=0.0, intercept=6.0 if better.all() else -6.0)
    fitted = fit_platt(raw.tolist(), better.tolist())
    if fitted.slope > 0:
        return fitted
    share = float(better.mean())
    return Platt(slope=0.0, intercept=float(np.log(share / (1 - share))))


def texts_of(rows: Outcomes) -> tuple[str, ...]:
    """Raises: ValueError: the rows have no text."""
    if rows.text is None:
        raise ValueError("routing before generation needs the prompts: name their column with --text")
    return rows.text
