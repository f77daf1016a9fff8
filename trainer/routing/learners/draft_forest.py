"""A forest beside the regressions: what signals and text say together, where neither alone does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from policies.scoring.models import Trees
from trainer.routing.learners.trees import exported
from trainer.routing.outcomes import Floats

N_TREES = 80
LEAF_ROWS = 20
INPUT_SHARE = 0.3
"""Of the inputs, drawn anew at every node."""
SIGNAL_COPIES = 3
"""The few signals are drawn as often as that many of the many features of the text."""
STRONG_LESS_WEAK = np.array([-1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Forest:
    """E[strong - weak] by extremely randomised trees of both outcomes.

    Source: Geurts, Ernst & Wehenkel 2006, Machine Learning 63, 3-42.
    """

    names: tuple[str, ...]
    """Of its inputs; some stand there several times."""
    trees: ExtraTreesRegressor
    held_out: Floats
    """[n], of the training rows, each by the trees that did not draw it."""

    @classmethod
    def fit(cls, names: Sequence[str], columns: Floats, weak: Floats, strong: Floats, seed: int) -> Forest:
        """Args: columns: [n, k], NaN = missing."""
        leaf = max(1, min(LEAF_ROWS, len(columns) // 10))
        trees = ExtraTreesRegressor(
            N_TREES, min_samples_leaf=leaf, max_features=INPUT_SHARE, bootstrap=True, oob_score=True,
            random_state=seed, n_jobs=1,
        )  # fmt: skip
        trees.fit(columns, np.column_stack([weak, strong]))
        return cls(tuple(names), trees, trees.oob_prediction_ @ STRONG_LESS_WEAK)

    def raw(self, columns: Floats) -> Floats:
        """[n]"""
        found: Floats = self.trees.predict(columns) @ STRONG_LESS_WEAK
        return found

    def part(self) -> Trees:
        """Of an artefact."""
        return exported(self.trees, self.names, STRONG_LESS_WEAK)
