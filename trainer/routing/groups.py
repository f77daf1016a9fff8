"""Which rows are the same question: a policy that saw one of them in training has seen the others.

Broader than the deduplication of training data, which must not lose a row: here numerals may differ (`3 + 4` and
`3 + 5` are as hard as each other), and near-duplicates of near-duplicates belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trainer.routing.outcomes import Ints, Outcomes
from trainer.similarity.texts import Templates, digest, normalise, shingles

PERMUTATIONS = 128
BANDS = 32
"""Of 4 values each: a pair at the threshold shares one with probability 0.99, one with an overlap of 0.7 always."""
SEED = 20_211
NEAR = 0.6
"""Jaccard overlap of 5-character shingles from which two texts are near-duplicates."""
SAME = 0.95
"""From here on a text brings no neighbours that the other does not have."""
SHINGLED_CHARS = 20_000
"""Of longer texts the beginning and the end count, half of this each."""
DISTINCT_SHARE = 0.9
"""Without texts: equal signals mean the same row only where nearly all rows differ."""

Progress = Callable[[int, int], None]


def near_duplicates(rows: Outcomes, progress: Progress = lambda done, total: None) -> Ints:
    """[n], rows of one number are near-duplicates of each other; numbers from 0 in order of appearance."""
    groups = _Groups(len(rows))
    if rows.text is None:
        _join_equal_signals(rows, groups)
    else:
        _join_near_texts(rows.text, groups, progress)
    return groups.numbers()


class _Groups:
    """Disjoint sets of rows."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def root(self, row: int) -> int:
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def join(self, one: int, other: int) -> None:
        a, b = self.root(one), self.root(other)
        self._parent[max(a, b)] = min(a, b)

    def numbers(self) -> Ints:
        _, numbers = np.unique([self.root(row) for row in range(len(self._parent))], return_inverse=True)
        return np.asarray(numbers, dtype=np.int64)


def _join_near_texts(texts: Sequence[str], groups: _Groups, progress: Progress) -> None:
    from rensa import RMinHash, RMinHashLSH  # noqa: PLC0415 - Rust

    index = RMinHashLSH(threshold=NEAR, num_perm=PERMUTATIONS, num_bands=BANDS)
    indexed: dict[int, RMinHash] = {}
    for done, (row, text) in enumerate(_distinct(texts, groups)):
        made = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
        made.update(sorted(shingles(_ends(text))))
        closest = 0.0
        for other in index.query(made):
            if closest >= SAME and groups.root(row) == groups.root(other):
                continue
            overlap = made.jaccard(indexed[other])
            closest = max(closest, overlap)
            if overlap >= NEAR:
                groups.join(row, other)
        if closest < SAME:
            index.insert(row, made)
            indexed[row] = made
        if done % 500 == 0:
            progress(done, len(texts))


def _distinct(texts: Sequence[str], groups: _Groups) -> Iterator[tuple[int, str]]:
    """Rows with different texts, normalised and without what most prompts begin or end with. Empty texts are alone."""
    templates = Templates(texts)
    first: dict[bytes, int] = {}
    for row, text in enumerate(texts):
        normal = normalise(templates.strip(text))
        if not normal:
            continue
        key = digest(normal)
        if key in first:
            groups.join(first[key], row)
            continue
        first[key] = row
        yield row, normal


def _ends(text: str) -> str:
    half = SHINGLED_CHARS // 2
    return text if len(text) <= SHINGLED_CHARS else f"{text[:half]} {text[-half:]}"


def _join_equal_signals(rows: Outcomes, groups: _Groups) -> None:
    first: dict[bytes, int] = {}
    keys = []
    for row in range(len(rows)):
        words = [values[row] for values in rows.categorical.values()]
        keys.append(digest(*words, rows.signals[row].tobytes().hex()))
        first.setdefault(keys[-1], row)
    if len(first) >= DISTINCT_SHARE * len(rows):
        for row, key in enumerate(keys):
            groups.join(first[key], row)
