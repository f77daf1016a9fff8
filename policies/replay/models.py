"""Outcome models: ridge and logistic regression, cross-fitted, in numpy.

They only have to be useful, not right: the doubly robust estimator corrects them with what was observed. Each row is
predicted by a model that was not fitted on it, so that the correction is not fitted to its own errors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.replay.columns import Flags, Floats

FOLDS = 5
MIN_FITTED = 50
"""Observed rows below which the mean is the model."""
RIDGE = 1.0
NEWTON_STEPS = 12
Matrix = NDArray[np.float32]


def folds_of(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """A fold for each row: by its id, so that it is the same in every run."""
    mixed = (ids * np.int64(0x9E3779B97F4A7C1)) >> np.int64(20)
    folds: NDArray[np.int64] = np.abs(mixed) % FOLDS
    return folds


def cross_fitted(design: Matrix, y: Floats, weight: Floats, folds: NDArray[np.int64], *, bounded: bool) -> Floats:
    """Predictions for all rows from those that were observed.

    Args:
        design: [n, d], standardised, without a column of ones.
        y: [n]; read only where `weight` > 0.
        weight: [n], 0 = not observed.
        bounded: outcomes are within [0, 1]: logistic, else ridge.
    """
    observed = np.flatnonzero(weight > 0)
    if len(observed) == 0:
        return np.full(len(y), np.nan)
    mean = float(np.average(y[observed], weights=weight[observed]))
    if len(observed) < MIN_FITTED or float(np.ptp(y[observed])) == 0.0:
        return _held_out_means(y, weight, folds, observed, mean)
    predicted: Floats = np.empty(len(y))
    x, target, w = _with_ones(design[observed]), y[observed], weight[observed] / weight[observed].mean()
    beta = np.zeros(x.shape[1])
    for fold in range(FOLDS):
        kept = folds[observed] != fold
        beta = _logistic(x[kept], target[kept], w[kept], beta) if bounded else _ridge(x[kept], target[kept], w[kept])
        rows = np.flatnonzero(folds == fold)
        linear = design[rows].astype(np.float64) @ beta[1:] + float(beta[0])
        predicted[rows] = _sigmoid(linear) if bounded else linear
    if not bounded:  # no extrapolation beyond what was ever seen
        return np.clip(predicted, target.min(), target.max())
    return predicted


def _held_out_means(
    y: Floats, weight: Floats, folds: NDArray[np.int64], observed: NDArray[np.intp], mean: float
) -> Floats:
    predicted = np.full(len(y), mean)
    for fold in range(FOLDS):
        kept = observed[folds[observed] != fold]
        if len(kept):
            predicted[folds == fold] = np.average(y[kept], weights=weight[kept])
    return predicted


def _with_ones(x: Matrix) -> Floats:
    stacked: Floats = np.hstack([np.ones((len(x), 1)), x.astype(np.float64)])
    return stacked


def _ridge(x: Floats, y: Floats, weight: Floats) -> Floats:
    penalty = np.full(x.shape[1], RIDGE)
    penalty[0] = 0.0
    weighted = x * weight[:, None]
    return np.asarray(np.linalg.solve(weighted.T @ x + np.diag(penalty), weighted.T @ y), np.float64)


def _logistic(x: Floats, y: Floats, weight: Floats, start: Floats) -> Floats:
    """Newton's method on the penalised likelihood; `y` may be any share in [0, 1].

    Args:
        start: coefficients to start from: those of another fold; zeros: there are none yet.
    """
    beta = start.copy()
    if not beta.any():
        mean = np.clip(np.average(y, weights=weight), 1e-3, 1 - 1e-3)
        beta[0] = np.log(mean / (1 - mean))
    penalty = np.full(x.shape[1], RIDGE)
    penalty[0] = 1e-6
    for _ in range(NEWTON_STEPS):
        p = _sigmoid(x @ beta)
        gradient = x.T @ (weight * (p - y)) + penalty * beta
        hessian = (x * (weight * np.maximum(p * (1 - p), 1e-6))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        beta -= step / max(1.0, float(np.abs(step).max()))
        if float(np.abs(step).max()) < 1e-4:
            break
    return beta


def _sigmoid(value: Floats) -> Floats:
    result: Floats = 1.0 / (1.0 + np.exp(-np.clip(value, -30.0, 30.0)))
    return result


def sample(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """At most so many of the rows, evenly spread."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)]


def standardised(columns: list[Floats], rows: Flags | None = None) -> Matrix:
    """A design of raw columns: centred and scaled, NaN = the mean beside an indicator, constant columns dropped."""
    kept: list[Matrix] = []
    for column in columns:
        missing = np.isnan(column)
        if missing.all():
            continue
        mean, deviation = float(np.nanmean(column)), float(np.nanstd(column))
        if deviation > 1e-12:
            kept.append(np.where(missing, 0.0, (column - mean) / deviation).astype(np.float32))
        if missing.any():
            kept.append((missing - missing.mean()).astype(np.float32))
    if not kept:
        return np.zeros((len(columns[0]), 1), np.float32)
    return np.stack(kept, axis=1)
