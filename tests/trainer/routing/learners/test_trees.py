"""Forests as plain arrays give what scikit-learn gives."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

from policies.scoring.models import TreesScorer
from trainer.routing.learners.trees import exported

NAMES = ("a", "b", "c")


@pytest.mark.parametrize("kind", [ExtraTreesRegressor, RandomForestRegressor])
@pytest.mark.parametrize("missing", [False, True])
def test_exported_forest_gives_what_the_forest_gives(
    kind: type[ExtraTreesRegressor | RandomForestRegressor], missing: bool
) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(400, 3)).astype(np.float32).astype(np.float64)
    targets = np.column_stack([rows[:, 0] > 0, rows[:, 1] * rows[:, 2] > 0]).astype(float)
    if missing:
        rows[generator.random(rows.shape) < 0.2] = np.nan
    forest = kind(20, min_samples_leaf=5, random_state=0).fit(rows, targets)
    outputs = np.array([1.0, -1.0])
    scorer = TreesScorer(exported(forest, NAMES, outputs))
    found = [scorer.score(dict(zip(NAMES, row, strict=True)), None, None) for row in rows[:100].tolist()]
    assert found == pytest.approx((forest.predict(rows[:100]) @ outputs).tolist(), abs=1e-6)
