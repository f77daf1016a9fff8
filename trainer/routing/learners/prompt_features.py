"""Matrices of prompts, from the very features that `difficulty` computes when it routes (policies/scoring/text.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from policies.scoring.models import WORDS, DenseWeight, Lexical, Numbers
from policies.scoring.text import STRUCTURE_NAMES, bucket, extract
from trainer.routing.outcomes import Bools, Floats, Ints

BUCKETS = 2**16
CLIPPED_SHARE = 0.001
"""Of the rows at either end, whose values count as those of the next: an outlier must not set the scale."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """What models see of n texts."""

    structure: Floats
    """[n, len(STRUCTURE_NAMES)], as 32-bit floats see them, so that trees part them alike here and when they serve."""
    words: sparse.csr_matrix
    """[n, BUCKETS], how many distinct words of the text fall into each bucket."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> Prompts:
        slots: dict[str, int] = {}
        structure = np.empty((len(texts), len(STRUCTURE_NAMES)), dtype=np.float32)
        found: list[int] = []
        ends = [0]
        for row, text in enumerate(texts):
            features = extract(text)
            structure[row] = features.structure
            for word in features.words:
                slot = slots.get(word)
                if slot is None:
                    slot = slots[word] = bucket(word, WORDS, BUCKETS)
                found.append(slot)
            ends.append(len(found))
        counts = np.ones(len(found), dtype=np.float64)
        words = sparse.csr_matrix((counts, np.array(found, dtype=np.int32), ends), shape=(len(texts), BUCKETS))
        words.sum_duplicates()
        return cls(structure.astype(np.float64), words)

    def __len__(self) -> int:
        return len(self.structure)

    def part(self, rows: Bools | Ints) -> Prompts:
        """The rows of a mask or of indices."""
        return Prompts(self.structure[rows], self.words[rows])


@dataclass(frozen=True, eq=False)
class Columns:
    """How prompts become columns of a linear model: TF-IDF rows of unit length, and standardised structure.

    A term's weight is that of policies.scoring.models.Lexical: count * idf / sqrt(sum of count * idf**2).
    """

    idf: Floats
    """[BUCKETS]"""
    low: Floats
    high: Floats
    centre: Floats
    scale: Floats
    """[k], with the factor that weighs the structure against the words."""

    @classmethod
    def of(cls, prompts: Prompts, structure_factor: float) -> Columns:
        n = len(prompts)
        rows_with = np.bincount(prompts.words.indices, minlength=BUCKETS)
        low, high = np.quantile(prompts.structure, [CLIPPED_SHARE, 1 - CLIPPED_SHARE], axis=0)
        clipped = np.clip(prompts.structure, low, high)
        spread = clipped.std(axis=0)
        return cls(
            idf=np.log((1 + n) / (1 + rows_with)) + 1,
            low=low,
            high=high,
            centre=clipped.mean(axis=0),
            scale=structure_factor / np.where(spread > 1e-9, spread, np.inf),  # what never differs says nothing
        )

    def matrix(self, prompts: Prompts) -> sparse.csr_matrix:
        """[n, BUCKETS + k]"""
        words = prompts.words.copy()
        squares = words.copy()
        squares.data *= self.idf[words.indices] ** 2
        lengths = np.sqrt(np.maximum(np.asarray(squares.sum(axis=1)).ravel(), 1e-12))
        words.data *= self.idf[words.indices]
        structure = (np.clip(prompts.structure, self.low, self.high) - self.centre) * self.scale
        return sparse.hstack([sparse.diags(1 / lengths) @ words, sparse.csr_matrix(structure)]).tocsr()

    def dense(self, coefficients: Floats) -> tuple[dict[str, DenseWeight], float]:
        """Coefficients of the structure's columns as weights of the inputs, and what they add to the intercept."""
        weights = coefficients * self.scale
        entries = zip(STRUCTURE_NAMES, weights.tolist(), self.centre.tolist(), self.low.tolist(), self.high.tolist(),
                      strict=True)  # fmt: skip
        dense = {name: DenseWeight(weight, weight * centre, low, high) for name, weight, centre, low, high in entries}
        return dense, -float(weights @ self.centre)

    def lexical(self, coefficients: Floats) -> Lexical:
        """Coefficients of the words' columns."""
        return Lexical(
            buckets=BUCKETS,
            blocks=("words",),
            weights={"words": Numbers.of((coefficients * self.idf).tolist(), "f")},
            squares={"words": Numbers.of((self.idf**2).tolist(), "f")},
        )
