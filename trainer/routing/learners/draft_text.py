"""What the text alone says of how well each model answers: cross-fitted estimates, and their parts in an artefact.

Of the weak model's errors many are errors of the strong one as well, and the weak one's own signals hardly tell those
apart; the text does, a little. Both estimates are learned from all rows with a target that is balanced: few labels say
more about it than about the rare event "only the strong one is right".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from policies.scoring.models import Linear, Trees
from policies.scoring.text import STRUCTURE_NAMES
from trainer.routing.learners.prompt import INPUT_SHARE, LEAF_ROWS, STRUCTURE_FACTOR, Head
from trainer.routing.learners.prompt_features import BUCKETS, Columns, Prompts
from trainer.routing.learners.trees import exported
from trainer.routing.outcomes import Floats, Ints

N_TREES = 60
ESTIMATES = (("part_0", "part_2"), ("part_1", "part_3"))
"""Of the weak and the strong model: the parts of an artefact whose mean it is."""


@dataclass(frozen=True, eq=False)
class TextModel:
    """Quality of the weak and of the strong model: the mean of regressions on words and structure and of a forest."""

    columns: Columns
    weak: Head
    strong: Head
    forest: ExtraTreesRegressor

    @classmethod
    def fit(cls, prompts: Prompts, outcomes: Floats, seed: int) -> TextModel:
        """Args: outcomes: [n, 2], weak and strong."""
        columns = Columns.of(prompts, STRUCTURE_FACTOR)
        matrix = columns.matrix(prompts)
        forest = ExtraTreesRegressor(
            N_TREES, min_samples_leaf=LEAF_ROWS, max_features=INPUT_SHARE, random_state=seed, n_jobs=1
        )
        forest.fit(prompts.structure, outcomes)
        return cls(columns, Head.fit(matrix, outcomes[:, 0]), Head.fit(matrix, outcomes[:, 1]), forest)

    def estimates(self, prompts: Prompts) -> Floats:
        """[n, 2], of the weak and the strong model's quality."""
        matrix = self.columns.matrix(prompts)
        linear = np.column_stack([self.weak.chance(matrix), self.strong.chance(matrix)])
        return np.asarray((linear + self.forest.predict(prompts.structure)) / 2)

    def parts(self) -> tuple[Linear | Trees, ...]:
        """The first ones of an artefact, see ESTIMATES."""
        return (
            self._linear(self.weak),
            self._linear(self.strong),
            exported(self.forest, STRUCTURE_NAMES, np.array([1.0, 0.0])),
            exported(self.forest, STRUCTURE_NAMES, np.array([0.0, 1.0])),
        )

    def _linear(self, head: Head) -> Linear:
        dense, intercept = self.columns.dense(head.coefficients[BUCKETS:])
        return Linear(
            intercept=head.intercept + intercept,
            dense=dense,
            lexical=self.columns.lexical(head.coefficients[:BUCKETS]),
            squash=True,
        )


def cross_fitted(prompts: Prompts, outcomes: Floats, fold_of: Ints, seed: int) -> Floats:
    """[n, 2], the estimates of each text by a model of the other folds: what follows must not take a fit for a fact."""
    found = np.empty_like(outcomes)
    for fold in np.unique(fold_of).tolist():
        out = fold_of == fold
        if out.all():
            return TextModel.fit(prompts, outcomes, seed).estimates(prompts)
        found[out] = TextModel.fit(prompts.part(~out), outcomes[~out], seed).estimates(prompts.part(out))
    return found
