"""Signals as columns of a regression that bends: ramps of their ranks, what is missing, and products of pairs.

Ranks, so that nothing depends on a signal's unit or on its tails: a probability, nats and a number of tokens are
treated alike. Every column is defined by its values at a few points of the signal, linear between them, which is how a
policy evaluates it as well (`policies.scoring.curves`): what is fitted is what is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from policies.scoring.curves import Curve, Curves, Term
from trainer.routing.outcomes import Floats

POINTS = 33
KNOTS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Ranks at which the effect of a signal may change its slope."""
UNIT = 12**0.5
"""1 / standard deviation of a rank: columns are of about unit size, so one penalty suits all."""
MAX_PAIRED = 6
"""Signals whose products are taken; with more of them, those that tell most."""


@dataclass(frozen=True, eq=False)
class Signal:
    """One signal on the rows that it was fitted on."""

    name: str
    x: Floats
    """[m], rising, m <= POINTS."""
    shapes: Floats
    """[m, 1 + len(KNOTS)]: the centred rank, and the ramps."""
    ever_missing: bool
    absent: Floats
    """[1 + len(KNOTS)], where it is missing: 0, beside an indicator. Of one that never was: the mean, so that its loss
    later on says nothing."""

    @classmethod
    def of(cls, name: str, values: Floats) -> Signal:
        present = np.sort(values[~np.isnan(values)])
        if present.size == 0:
            nothing = np.zeros((1, 1 + len(KNOTS)))
            return cls(name, np.zeros(1), nothing, False, nothing[0])
        x = np.unique(np.quantile(present, np.linspace(0, 1, POINTS)))
        if not np.all(np.diff(x) > 0) or not np.isfinite(x).all():
            raise ValueError(f"signal {name!r}: its values are not finite")
        rank = (np.searchsorted(present, x, "left") + np.searchsorted(present, x, "right")) / (2 * present.size)
        ramps = [np.maximum(rank - knot, 0.0) for knot in KNOTS]
        shapes = UNIT * np.column_stack([rank - 0.5, *ramps])
        ever_missing = present.size < values.size
        return cls(name, x, shapes, ever_missing, np.zeros(shapes.shape[1]) if ever_missing else shapes.mean(axis=0))

    def columns(self, values: Floats) -> Floats:
        """[n, shapes]"""
        missing = np.isnan(values)
        at = np.where(missing, self.x[0], values)
        found = np.column_stack([np.interp(at, self.x, shape) for shape in self.shapes.T])
        found[missing] = self.absent
        return found

    def curve(self, weights: Floats, missing: float) -> Curve:
        """The shapes added up. Args: weights: of each. missing: of the indicator."""
        ys = (self.shapes @ weights).tolist()
        return Curve(self.name, tuple(self.x.tolist()), tuple(ys), missing + float(self.absent @ weights))


@dataclass(frozen=True, eq=False)
class Basis:
    """All columns: the shapes of each signal, what is missing, products of pairs, and further columns as they are."""

    signals: tuple[Signal, ...]
    paired: tuple[int, ...]
    """Signals whose products are taken."""

    @classmethod
    def of(cls, names: Sequence[str], values: Floats, target: Floats) -> Basis:
        """Args: values: [n, k], NaN = missing. target: [n], decides which of many signals are paired."""
        signals = tuple(Signal.of(name, column) for name, column in zip(names, values.T, strict=True))
        told = [_told(signal.columns(column)[:, 0], target) for signal, column in zip(signals, values.T, strict=True)]
        best = np.argsort(-np.array(told), kind="stable")[:MAX_PAIRED]
        return cls(signals, tuple(sorted(best.tolist())))

    @property
    def _n_effects(self) -> int:
        """Columns of single signals."""
        return (1 + len(KNOTS)) * len(self.signals) + sum(signal.ever_missing for signal in self.signals)

    @property
    def width(self) -> int:
        """Columns."""
        return self._n_effects + len(self._products)

    def ridge(self, single: float, product: float) -> Floats:
        """[columns], the penalty of each."""
        return np.concatenate([np.full(self._n_effects, single), np.full(len(self._products), product)])

    @property
    def _products(self) -> list[tuple[int, int, bool]]:
        """(signal, other signal, whether what counts of the first is that it is missing)"""
        pairs = [(a, b, False) for a, b in combinations(self.paired, 2)]
        return pairs + [
            (a, b, True) for a in self.paired if self.signals[a].ever_missing for b in self.paired if a != b
        ]

    def matrix(self, values: Floats) -> Floats:
        """[n, columns]"""
        shapes = [signal.columns(column) for signal, column in zip(self.signals, values.T, strict=True)]
        missing = np.isnan(values).astype(np.float64)
        gone = [missing[:, [place]] for place, signal in enumerate(self.signals) if signal.ever_missing]
        products = [
            (missing[:, [a]] if of_missing else shapes[a][:, [0]]) * shapes[b][:, [0]]
            for a, b, of_missing in self._products
        ]
        return np.hstack([np.empty((len(values), 0)), *shapes, *gone, *products])

    def curves(self, coefficients: Floats, intercept: float, further: Sequence[Curve], *, squash: bool) -> Curves:
        """The regression as a part of an artefact.

        Args:
            coefficients: [columns], in the order of `matrix`.
            further: curves that are added as they are.
        """
        width = 1 + len(KNOTS)
        taken = iter(coefficients[width * len(self.signals) :].tolist())
        gone = [next(taken) if signal.ever_missing else 0.0 for signal in self.signals]
        effects = [
            signal.curve(coefficients[width * place : width * (place + 1)], missing)
            for place, (signal, missing) in enumerate(zip(self.signals, gone, strict=True))
        ]
        rank = np.eye(width)[0]
        ranks = {place: self.signals[place].curve(rank, 0.0) for place in self.paired}
        flags = {place: Curve(self.signals[place].name, (0.0,), (0.0,), 1.0) for place in self.paired}
        curves = [*effects, *further, *ranks.values(), *flags.values()]
        terms = [Term(1.0, place) for place in range(len(effects) + len(further))]
        first_rank = len(terms)
        at = {place: first_rank + index for index, place in enumerate(self.paired)}
        flag_at = {place: first_rank + len(self.paired) + index for index, place in enumerate(self.paired)}
        terms += [Term(next(taken), (flag_at if of_missing else at)[a], at[b]) for a, b, of_missing in self._products]
        return Curves(intercept=intercept, curves=tuple(curves), terms=tuple(terms), squash=squash)


def _told(rank: Floats, target: Floats) -> float:
    """|correlation|, 0 where one of both is constant."""
    spread = float(rank.std() * target.std())
    return abs(float(np.mean((rank - rank.mean()) * (target - target.mean())))) / spread if spread > 0 else 0.0
