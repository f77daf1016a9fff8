"""Logistic regression on sparse rows in plain Python: the core install has no numpy, a few thousand rows need none."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from policies.calibration import sigmoid

SparseRow = Sequence[tuple[int, float]]
"""(feature, value); features that are left out are 0."""


def fit(
    rows: Sequence[SparseRow],
    labels: Sequence[int],
    row_weights: Sequence[float],
    penalties: Sequence[float],
    *,
    epochs: int = 12,
    rate: float = 0.15,
    seed: int = 0,
) -> tuple[list[float], float]:
    """Weights and intercept that minimise weighted log loss plus `penalties[j] / 2 * w[j]**2`, by AdaGrad.

    A feature's penalty is spread over the rows that have it, so that rare features are held back as much as an exact
    solver would. Deterministic for a seed.

    Args:
        rows: [n] sparse rows over `len(penalties)` features.
        row_weights: [n], mean 1.
    """
    weights = [0.0] * len(penalties)
    history = [1e-6] * len(penalties)
    occurrences = [0] * len(penalties)
    for row in rows:
        for feature, _ in row:
            occurrences[feature] += 1
    decay = [penalty / max(1, count) for penalty, count in zip(penalties, occurrences, strict=True)]
    intercept, intercept_history = 0.0, 1e-6
    order = list(range(len(rows)))
    shuffler = random.Random(seed)  # noqa: S311 - reproducible order, no secret
    for _ in range(epochs):
        shuffler.shuffle(order)
        for index in order:
            row = rows[index]
            logit = intercept + sum(weights[feature] * value for feature, value in row)
            error = (sigmoid(logit) - labels[index]) * row_weights[index]
            for feature, value in row:
                gradient = error * value + decay[feature] * weights[feature]
                history[feature] += gradient * gradient
                weights[feature] -= rate * gradient / math.sqrt(history[feature])
            intercept_history += error * error
            intercept -= rate * error / math.sqrt(intercept_history)
    return weights, intercept


def auroc(positive_scores: Sequence[float], negative_scores: Sequence[float]) -> float | None:
    """P(a positive scores higher than a negative), ties count half; None without both. Source: Mann & Whitney 1947."""
    if not positive_scores or not negative_scores:
        return None
    ranked = sorted([(score, 1) for score in positive_scores] + [(score, 0) for score in negative_scores])
    rank_sum, start = 0.0, 0
    while start < len(ranked):
        end = start
        while end < len(ranked) and ranked[end][0] == ranked[start][0]:
            end += 1
        rank_sum += sum(label for _, label in ranked[start:end]) * (start + 1 + end) / 2
        start = end
    positives = len(positive_scores)
    return (rank_sum - positives * (positives + 1) / 2) / (positives * len(negative_scores))
