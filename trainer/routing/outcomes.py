"""Labelled outcomes: for each query, how well the weak and the strong model answered it, and what was known before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """One row a query. All parts have the same length n and order."""

    ids: tuple[str, ...]
    text: tuple[str, ...] | None
    """The prompts; None where the file has none."""
    weak: Floats
    """[n], how well the weak model answered: 0 to 1, mostly one of the two."""
    strong: Floats
    """[n]"""
    signals: Floats
    """[n, k], NaN where the field is empty, which says something too (no answer could be extracted, say)."""
    signal_names: tuple[str, ...]
    """[k]"""
    categorical: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Signals that are words: name -> [n], "" where the field is empty."""
    cost_weak: Floats | None = None
    """[n], in any unit that is also the one of `cost_strong`: USD, tokens, seconds."""
    cost_strong: Floats | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def advantage(self) -> Floats:
        """[n], strong - weak: what sending the query to the teacher wins. The target of all learners."""
        return self.strong - self.weak

    def part(self, rows: Sequence[int] | Ints | Bools) -> Outcomes:
        """The rows of these indices, or of a mask, in the order that is given."""
        at = np.asarray(rows)
        index = np.flatnonzero(at) if at.dtype == np.bool_ else at.astype(np.int64)
        places = index.tolist()
        return Outcomes(
            ids=tuple(self.ids[i] for i in places),
            text=None if self.text is None else tuple(self.text[i] for i in places),
            weak=self.weak[index],
            strong=self.strong[index],
            signals=self.signals[index],
            signal_names=self.signal_names,
            categorical={name: tuple(values[i] for i in places) for name, values in self.categorical.items()},
            cost_weak=None if self.cost_weak is None else self.cost_weak[index],
            cost_strong=None if self.cost_strong is None else self.cost_strong[index],
        )
