"""What the words of a prompt alone say of how well a model answers it: cross-fitted estimates, and their part in an
artefact.

Of the weak model's errors many are errors of the strong one as well, and the weak one's own signals hardly tell those
apart; the text does, a little. Each model's estimate is learned from all rows with a target that is balanced: few
labels say more about it than about the rare event "only the strong one is right".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from policies.scoring.models import Linear
from trainer.routing.learners.prompt import Head
from trainer.routing.learners.prompt_features import BUCKETS, Columns, Prompts
from trainer.routing.outcomes import Floats, Ints

NO_STRUCTURE = 0.0
"""The structure of the text enters elsewhere, beside the signals."""
REMEMBERED = 160
"""Estimates: whoever measures many pairs of the same models on the same rows fits each model once a fold."""
REMEMBERED_TEXTS = 12
"""Sets of texts, for the training rows and the scored rows of a few folds."""


@dataclass(frozen=True, eq=False)
class WordEstimate:
    """P(a model answers well) from the words."""

    columns: Columns
    head: Head
    held_out: Floats
    """[n], of the training texts by estimates of the other folds: what follows must not take a fit for a fact."""

    def chance(self, prompts: Prompts) -> Floats:
        """[n]"""
        return self.head.chance(self.columns.matrix(prompts))

    def part(self) -> Linear:
        """Of an artefact."""
        lexical = self.columns.lexical(self.head.coefficients[:BUCKETS])
        return Linear(intercept=self.head.intercept, lexical=lexical, squash=True)


def fit(texts: tuple[str, ...], outcome: Floats, fold_of: Ints) -> WordEstimate:
    """Args: outcome: [n], of one model. fold_of: [n], near-duplicates in one fold."""
    return _fitted(texts, outcome.tobytes(), fold_of.tobytes())


@lru_cache(maxsize=REMEMBERED_TEXTS)
def prompts_of(texts: tuple[str, ...]) -> Prompts:
    return Prompts.of(texts)


@lru_cache(maxsize=REMEMBERED)
def _fitted(texts: tuple[str, ...], outcomes: bytes, folds: bytes) -> WordEstimate:
    prompts, outcome, fold_of = prompts_of(texts), np.frombuffer(outcomes), np.frombuffer(folds, dtype=np.int64)
    columns, head = _regression(prompts, outcome)
    held_out = np.empty(len(texts))
    for fold in np.unique(fold_of).tolist():
        out = fold_of == fold
        before, fitted = (columns, head) if out.all() else _regression(prompts.part(~out), outcome[~out])
        held_out[out] = fitted.chance(before.matrix(prompts.part(out)))
    return WordEstimate(columns, head, held_out)


def _regression(prompts: Prompts, outcome: Floats) -> tuple[Columns, Head]:
    columns = Columns.of(prompts, NO_STRUCTURE)
    return columns, Head.fit(columns.matrix(prompts), outcome)
