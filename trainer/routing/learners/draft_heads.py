"""E[strong - weak] of a draft as three chances, each a regression that bends.

strong - weak = (1 - weak) * strong - weak * (1 - strong), also for outcomes between 0 and 1. So:

    wrong   P(the weak model is wrong)
    mended  P(the strong one is right, given that the weak one is wrong)
    spoilt  P(the strong one is wrong, given that the weak one is right)
    raw     wrong * mended - (1 - wrong) * spoilt

The signals of the weak model say much about the first, the text about the second. One regression of "strong better" has
to find both in rows of which nine in ten are negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.scoring.curves import Curve, Curves, Term
from trainer.routing.learners.draft_basis import Basis
from trainer.routing.learners.draft_logistic import chance, fit
from trainer.routing.outcomes import Floats

SHAPE_RIDGE = 3.0
PRODUCT_RIDGE = 10.0
FURTHER_RIDGE = 3.0
LEAST_SPREAD = 1e-9


@dataclass(frozen=True, eq=False)
class Further:
    """Columns beside the signals, as they enter the regressions: standardised, within what was seen."""

    names: tuple[str, ...]
    """Of inputs of an artefact."""
    low: Floats
    high: Floats
    centre: Floats
    scale: Floats
    ridge: Floats
    """[k], of each column."""

    @classmethod
    def of(cls, names: Sequence[str], values: Floats, ridge: Floats) -> Further:
        """On the scale of these rows, [n, k]; a column that never differs counts nothing."""
        low, high = values.min(axis=0), values.max(axis=0)
        spread = values.std(axis=0)
        return cls(tuple(names), low, high, values.mean(axis=0), np.where(spread > LEAST_SPREAD, spread, np.inf), ridge)

    def matrix(self, values: Floats) -> Floats:
        """[n, k]"""
        return np.asarray((np.clip(values, self.low, self.high) - self.centre) / self.scale)

    def curves(self, coefficients: Floats) -> list[Curve]:
        """Straight lines; what is missing counts as the centre."""
        found = []
        slopes = (coefficients / self.scale).tolist()
        ends = zip(self.names, slopes, self.low.tolist(), self.centre.tolist(), self.high.tolist(), strict=True)
        for name, slope, low, centre, high in ends:
            if low < high:
                found.append(Curve(name, (low, high), (slope * (low - centre), slope * (high - centre)), 0.0))
        return found


@dataclass(frozen=True, eq=False)
class Heads:
    """The three regressions."""

    basis: Basis
    further: Further
    wrong: Floats
    mended: Floats
    spoilt: Floats
    """[1 + columns] each, the intercept first."""

    @classmethod
    def fit(cls, basis: Basis, further: Further, columns: Floats, weak: Floats, strong: Floats) -> Heads:
        """Args: columns: [n, ...], of `basis`, then of `further`."""
        ridge = np.concatenate([basis.ridge(SHAPE_RIDGE, PRODUCT_RIDGE), further.ridge])
        return cls(
            basis,
            further,
            wrong=fit(columns, 1 - weak, np.ones(len(weak)), ridge),
            mended=fit(columns, strong, 1 - weak, ridge),
            spoilt=fit(columns, 1 - strong, weak, ridge),
        )

    def columns(self, signals: Floats, further: Floats) -> Floats:
        """[n, columns], see `fit`."""
        return np.column_stack([self.basis.matrix(signals), self.further.matrix(further)])

    def raw(self, columns: Floats) -> Floats:
        """[n], E[strong - weak]."""
        wrong = chance(columns, self.wrong)
        return np.asarray(wrong * chance(columns, self.mended) - (1 - wrong) * chance(columns, self.spoilt))

    def parts(self, before: int) -> tuple[Curves, ...]:
        """Four parts of an artefact; the last gives `raw`. Args: before: parts that stand before them."""
        width = self.basis.width
        regressions = [
            self.basis.curves(
                found[1 : 1 + width], float(found[0]), self.further.curves(found[1 + width :]), squash=True
            )
            for found in (self.wrong, self.mended, self.spoilt)
        ]
        itself = [Curve(f"part_{before + place}", (0.0, 1.0), (0.0, 1.0), 0.0) for place in range(3)]
        wrong, mended, spoilt = range(3)
        raw = Curves(
            intercept=0.0,
            curves=tuple(itself),
            terms=(Term(1.0, wrong, mended), Term(-1.0, spoilt), Term(1.0, wrong, spoilt)),
        )
        return (*regressions, raw)
