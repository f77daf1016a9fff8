"""Fitted forests of scikit-learn as plain arrays, from public attributes only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

from policies.scoring.models import Element, Numbers, Trees
from trainer.routing.outcomes import Floats

LARGEST = float(np.finfo(np.float32).max)

Forest: TypeAlias = ExtraTreesRegressor | RandomForestRegressor


def exported(forest: Forest, inputs: Sequence[str], outputs: Floats) -> Trees:
    """The forest as an artefact's part.

    Args:
        inputs: names of the columns that it was fitted on.
        outputs: [number of targets], by which the targets are weighted and added up.
    """
    trees = [each.tree_ for each in forest.estimators_]
    starts = np.concatenate([[0], np.cumsum([tree.node_count for tree in trees])])
    left, right, feature, threshold, missing, value = [], [], [], [], [], []
    for tree, start in zip(trees, starts[:-1], strict=True):
        inner = tree.children_left >= 0
        left.append(np.where(inner, tree.children_left + start, -1))
        right.append(np.where(inner, tree.children_right + start, -1))
        feature.append(np.where(inner, tree.feature, 0))
        # Infinite where a node parts what is missing from what is not: every value is below the largest one.
        threshold.append(np.where(inner, np.minimum(tree.threshold, LARGEST), 0.0))
        missing.append(tree.missing_go_to_left.astype(np.int64))
        value.append(np.where(inner, 0.0, tree.value[:, :, 0] @ outputs) / len(trees))
    return Trees(
        base=0.0,
        inputs=tuple(inputs),
        roots=_numbers([starts[:-1]], "i"),
        feature=_numbers(feature, "i"),
        threshold=_numbers(threshold, "d"),
        left=_numbers(left, "i"),
        right=_numbers(right, "i"),
        missing_left=_numbers(missing, "i"),
        value=_numbers(value, "f"),
    )


def _numbers(columns: Sequence[NDArray[Any]], kind: Element) -> Numbers:
    return Numbers.of(np.concatenate(columns).tolist(), kind)
