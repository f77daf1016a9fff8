"""Folds for cross-fitting: near-duplicates on one side, each kind of outcome dealt out evenly.

Even shares matter: a fold with more queries that need the teacher than the others is scored by a model that saw fewer,
and the pooled ranking would be worse than that of either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from trainer.routing.outcomes import Floats, Ints, Outcomes


class TooFewGroups(ValueError):
    """The rows are so alike that they cannot be divided."""


def assign(rows: Outcomes, groups: Ints, folds: int, seed: int) -> Ints:
    """The fold of each row, [n]. Depends on the ids and the seed, not on the order of the rows.

    Raises:
        TooFewGroups
    """
    strata = _strata(rows)
    n_groups = int(groups.max()) + 1
    kinds = np.zeros((n_groups, int(strata.max()) + 1))
    np.add.at(kinds, (groups, strata), 1)
    sizes = kinds.sum(axis=1)
    if n_groups < 2 * folds or sizes.max() > len(rows) / 2:
        raise TooFewGroups(
            f"{len(rows)} rows are only {n_groups} different questions (the largest group of near-duplicates has "
            f"{int(sizes.max())} rows); {folds} folds need more that differ"
        )
    order = _order(rows.ids, groups, n_groups, seed)
    order = order[np.argsort(-sizes[order], kind="stable")]  # the large ones first, while there is room to balance them
    dealt = np.zeros((folds, kinds.shape[1]))
    fold_of = np.empty(n_groups, dtype=np.int64)
    for group in order.tolist():
        crowding = dealt @ kinds[group]
        least = np.flatnonzero(crowding == crowding.min())
        fold = int(least[np.argmin(dealt[least].sum(axis=1))])
        fold_of[group] = fold
        dealt[fold] += kinds[group]
    return fold_of[groups]


def canonical(ids: Sequence[str], seed: int) -> Ints:
    """An order of the rows that depends on their ids only, so that fits do not depend on the order in the file."""
    keys = [_key(each, seed) for each in ids]
    return np.array(sorted(range(len(ids)), key=keys.__getitem__), dtype=np.int64)


def _order(ids: Sequence[str], groups: Ints, n_groups: int, seed: int) -> Ints:
    """The groups, shuffled by their ids."""
    least: list[bytes | None] = [None] * n_groups
    for each, group in zip(ids, groups.tolist(), strict=True):
        key, known = _key(each, seed), least[group]
        least[group] = key if known is None else min(known, key)
    return np.array(sorted(range(n_groups), key=lambda group: least[group] or b""), dtype=np.int64)


def _key(text: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _strata(rows: Outcomes) -> Ints:
    """[n], 0-8: each outcome bad, middling or good."""

    def thirds(values: Floats) -> Ints:
        return np.digitize(values, [1 / 3, 2 / 3]).astype(np.int64)

    return 3 * thirds(rows.weak) + thirds(rows.strong)
