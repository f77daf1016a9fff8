"""Folds for cross-fitting: the rows of one prompt stay on one side, and each side has right and wrong answers."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from trainer.tune.threshold import Answers


def assign_folds(answers: Answers, folds: int, seed: int) -> NDArray[np.intp]:
    """The fold of each row, [n]: groups stay together, right and wrong answers are dealt out evenly.

    Groups with both stand between the two, so that each class is one run and no fold gets all of it.
    """
    outcomes = outcomes_by_group(answers.scored)
    order = list(dict.fromkeys(answers.groups))
    random.Random(seed).shuffle(order)  # noqa: S311 - a reproducible split, no secret

    def share_right(group: str) -> float:
        found = outcomes.get(group)
        return sum(found) / len(found) if found else -1.0  # empty answers are dealt out evenly as well

    order.sort(key=share_right)  # stable: shuffled within a class
    fold_of = {group: position % folds for position, group in enumerate(order)}
    return np.array([fold_of[group] for group in answers.groups], dtype=np.intp)


def outcomes_by_group(answers: Answers) -> dict[str, set[bool]]:
    """Which outcomes occur among the rows of each group."""
    outcomes: dict[str, set[bool]] = {}
    for group, right in zip(answers.groups, answers.right.tolist(), strict=True):
        outcomes.setdefault(group, set()).add(right)
    return outcomes
