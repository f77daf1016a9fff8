"""Logistic regression with a ridge of its own for every column, and rows that count in part.

Not scikit-learn's, which has one penalty for all columns; the problems here have a hundred columns at most, so Newton's
method takes milliseconds.
"""

from __future__ import annotations

import numpy as np

from trainer.routing.outcomes import Floats

MAX_STEPS = 50
LARGEST_STEP = 4.0
"""Of any coefficient in one step: keeps Newton's method from overshooting."""
FREE = 1e-6
"""The ridge of the intercept."""


def fit(columns: Floats, target: Floats, weight: Floats, ridge: Floats) -> Floats:
    """Minimises the weighted log loss + sum(ridge * coefficient^2) / 2.

    Args:
        columns: [n, k]
        target: [n], in [0, 1]
        weight: [n], at least 0; rows of weight 0 do not count
        ridge: [k], above 0
    Returns:
        [1 + k], the intercept first. With no weight at all, or one outcome only, the intercept says so, with one row of
        the other outcome assumed.
    """
    matrix = np.column_stack([np.ones(len(columns)), columns])
    penalty = np.concatenate([[FREE], ridge])
    base = (float(weight @ target) + 0.5) / (float(weight.sum()) + 1.0)
    found = np.zeros(matrix.shape[1])
    found[0] = np.log(base / (1 - base))
    positive = float(weight @ target)
    if min(positive, float(weight.sum()) - positive) <= 0:
        return found
    for _ in range(MAX_STEPS):
        chance = sigmoid(matrix @ found)
        gradient = matrix.T @ (weight * (chance - target)) + penalty * found
        curvature = (matrix.T * (weight * chance * (1 - chance))) @ matrix + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        largest = float(np.abs(step).max())
        found = found - step * min(1.0, LARGEST_STEP / max(largest, 1e-12))
        if largest < 1e-5:
            break
    return found


def chance(columns: Floats, coefficients: Floats) -> Floats:
    """[n], P of the target."""
    return sigmoid(coefficients[0] + columns @ coefficients[1:])


def sigmoid(values: Floats) -> Floats:
    """Without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))
