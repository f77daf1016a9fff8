"""The reference as a part of the cascade's score: few rows support no more, and beside many it is one voice of three.

Its share falls with the rows by one fixed rule. With 300 rows regressions and forest alone rank hardly better than the
reference does, and all three together better than either; with thousands the reference adds little.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policies.scoring.models import DenseWeight, Linear
from trainer.routing.learners.reference import ReferenceScorer
from trainer.routing.outcomes import Floats

EQUAL_ROWS = 600
"""Training rows with which it counts as much as either of the other two."""
LEAST = 0.5
"""What it counts at least, against 1 of each of the others."""
FAR = 1e6
"""Standard deviations: the reference has no bounds, a part of an artefact must."""
NEVER = -40.0
"""Log odds of what never happened."""


def weights(n: int) -> Floats:
    """[3], of regressions, forest and reference after n training rows; their sum is 1."""
    found = np.array([1.0, 1.0, max(LEAST, EQUAL_ROWS / max(1, n))])
    return np.asarray(found / found.sum())


def line(fitted: ReferenceScorer, names: Sequence[str]) -> Linear:
    """P(strong better) as a part of an artefact. Args: names: of the signals, in their order."""
    columns, model = fitted.columns, fitted.model
    if model is None:
        return Linear(intercept=NEVER, squash=True)
    coefficients = model.coef_[0].tolist()
    k = len(names)
    dense = {}
    intercept = float(model.intercept_[0])
    for place, (name, mean, scale) in enumerate(zip(names, columns.mean.tolist(), columns.scale.tolist(), strict=True)):
        weight = coefficients[place] / scale
        intercept -= weight * mean
        missing = coefficients[k + place] + weight * mean
        dense[name] = DenseWeight(weight, missing, mean - FAR * scale, mean + FAR * scale)
    levels = [f"{name}={level}" for name, known in columns.levels for level in known]
    for name, weight in zip(levels, coefficients[2 * k :], strict=True):
        dense[name] = DenseWeight(weight, 0.0, 0.0, 1.0)
    return Linear(intercept=intercept, dense=dense, squash=True)
