"""A part of a learned score that bends: curves of its inputs, and products of two of them. Evaluated without numpy.

A curve is linear between its points and flat outside them, so that a value that was never seen cannot dominate the
score, and it says what a missing value counts. That is all a generalised additive model with pairwise interactions
needs, and readable in a file, which a thousand trees are not.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from math import isnan

import msgspec

from policies.calibration import sigmoid
from policies.scoring.text import TextFeatures

MAX_CURVES = 4_096
MAX_POINTS = 1_024
MAX_TERMS = 16_384


class Curve(msgspec.Struct, frozen=True, array_like=True):
    """What one input counts."""

    input: str
    """Its name, or `part_<i>`: what the i-th part of the same artefact gave."""
    x: tuple[float, ...]
    """Rising."""
    y: tuple[float, ...]
    missing: float

    def __post_init__(self) -> None:
        if not 0 < len(self.x) == len(self.y) <= MAX_POINTS:
            raise ValueError(f"a curve has between 1 and {MAX_POINTS} points, each with x and y")
        if not all(map(math.isfinite, (*self.x, *self.y, self.missing))):
            raise ValueError("a curve's numbers are finite")
        if not all(a < b for a, b in pairwise(self.x)):
            raise ValueError("the points of a curve rise in x")

    def at(self, value: float) -> float:
        if isnan(value):
            return self.missing
        x, y = self.x, self.y
        right = bisect_right(x, value)
        if right == 0:
            return y[0]
        if right == len(x):
            return y[-1]
        x0, y0 = x[right - 1], y[right - 1]
        return y0 + (y[right] - y0) / (x[right] - x0) * (value - x0)


class Term(msgspec.Struct, frozen=True, array_like=True):
    """weight * the product of one or two curves, by their index."""

    weight: float
    first: int
    second: int | None = None


class Curves(msgspec.Struct, frozen=True, kw_only=True, tag="curves"):
    """intercept + the sum of the terms."""

    intercept: float
    curves: tuple[Curve, ...]
    terms: tuple[Term, ...]
    squash: bool = False
    """Give the logistic function of the sum instead of the sum: a probability."""


class CurvesScorer:
    """A `Curves`, checked."""

    embedding_size: int | None = None

    def __init__(self, model: Curves) -> None:
        """Raises: ValueError: numbers that do not fit together."""
        if len(model.curves) > MAX_CURVES or len(model.terms) > MAX_TERMS:
            raise ValueError(f"at most {MAX_CURVES} curves and {MAX_TERMS} terms")
        if not math.isfinite(model.intercept) or not all(math.isfinite(term.weight) for term in model.terms):
            raise ValueError("intercept and weights: must be finite")
        places = range(len(model.curves))
        if not all(term.first in places and (term.second is None or term.second in places) for term in model.terms):
            raise ValueError("a term names a curve that is not there")
        self._model = model
        self.inputs = frozenset(curve.input for curve in model.curves)

    def score(self, inputs: dict[str, float], text: TextFeatures | None, embedding: Sequence[float] | None) -> float:
        model = self._model
        values = [curve.at(inputs[curve.input]) for curve in model.curves]
        total = model.intercept
        for term in model.terms:
            factor = values[term.first] if term.second is None else values[term.first] * values[term.second]
            total += term.weight * factor
        return sigmoid(total) if model.squash else total
