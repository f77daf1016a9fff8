"""Near duplicates among requests, by MinHash and by embedding. Both err on the side of keeping a row.

Two requests are near duplicates only when
- they hold the same numerals (`3 + 4` and `3 + 5` are two questions),
- what came before the question is equal or near as well, and
- the first and the last sentence of a long question (at most EDGE_CHARS of them) are near too: the same document with
  two different questions about it is nearly the same text, and not the same request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from trainer.similarity.texts import Prompt, Templates, digest, normalise, numerals, shingles
from trainer.similarity.vectors import Vectors, windows

if TYPE_CHECKING:
    from rensa import RMinHash

EDGE_CHARS = 100
SENTENCE_END = re.compile(r"(?<=[.!?:]) ")
EDGED_CHARS = 300
"""Questions up to this length have no edges of their own."""
PERMUTATIONS = 128
MIN_RECALL = 0.99
"""Of pairs exactly at the threshold, by the choice of bands."""
SEED = 20_211
MAX_WINDOWS = 16
"""Longer texts are not compared by embedding."""
BLOCK_ROWS = 128


class Text(NamedTuple):
    """The parts of one request that are compared."""

    context: str
    turn: str
    edges: tuple[str, ...]


def text_of(prompt: Prompt, templates: Templates) -> Text:
    turn = templates.strip(prompt.turn)
    normal = normalise(turn)
    edges: tuple[str, ...] = ()
    if len(normal) > EDGED_CHARS:
        first, last = SENTENCE_END.split(normal[:EDGE_CHARS])[0], SENTENCE_END.split(normal[-EDGE_CHARS:])[-1]
        edges = (first, last)
    return Text(normalise(prompt.context), normal, edges)


def group_of(prompt: Prompt) -> bytes:
    """Requests of different groups are never duplicates: their numerals differ."""
    return digest("|".join(numerals(prompt.context)), "|".join(numerals(prompt.turn)))


class Signature(NamedTuple):
    """MinHashes of one request."""

    context: bytes
    turn: RMinHash
    edges: tuple[RMinHash, ...]


class MinHashIndex:
    """Finds earlier requests whose 5-character shingles overlap by at least `threshold` (Jaccard, estimated)."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._contexts: dict[bytes, RMinHash] = {}

    def signature(self, text: Text) -> Signature:
        context = digest(text.context)
        if context not in self._contexts:
            self._contexts[context] = _minhash(text.context)
        return Signature(context, _minhash(text.turn), tuple(_minhash(edge) for edge in text.edges))

    def duplicates(self, group: Iterable[tuple[int, Signature]]) -> dict[int, int]:
        """Row -> the earlier row of the group that it repeats. Rows that are dropped stand for no others."""
        from rensa import RMinHashLSH  # noqa: PLC0415 - part of the extra `loop`

        index = RMinHashLSH(threshold=self._threshold, num_perm=PERMUTATIONS, num_bands=_bands(self._threshold))
        kept: dict[int, Signature] = {}
        found: dict[int, int] = {}
        for row, signature in group:
            twin = next((other for other in index.query(signature.turn) if self._near(signature, kept[other])), None)
            if twin is not None:
                found[row] = twin
                continue
            kept[row] = signature
            index.insert(row, signature.turn)
        return found

    def _near(self, one: Signature, other: Signature) -> bool:
        if one.turn.jaccard(other.turn) < self._threshold or len(one.edges) != len(other.edges):
            return False
        if any(a.jaccard(b) < self._threshold for a, b in zip(one.edges, other.edges, strict=True)):
            return False
        if one.context == other.context:
            return True
        return bool(self._contexts[one.context].jaccard(self._contexts[other.context]) >= self._threshold)


def _minhash(text: str) -> RMinHash:
    from rensa import RMinHash  # noqa: PLC0415 - part of the extra `loop`

    made = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
    made.update(sorted(shingles(text)))
    return made


def _bands(threshold: float) -> int:
    """The fewest bands (so the fewest needless comparisons) that find MIN_RECALL of the pairs at the threshold."""
    for rows in (32, 16, 8, 4, 2):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= MIN_RECALL:
            return bands
    return PERMUTATIONS


class Pieces(NamedTuple):
    """Digests of the texts whose embeddings are compared for one request."""

    context: tuple[bytes, ...]
    turn: tuple[bytes, ...]
    edges: tuple[bytes, ...]


def texts_to_embed(text: Text) -> Iterator[str]:
    """Everything that `pieces` names. Nothing for a question that is too long to be compared."""
    turn, context = windows(text.turn), windows(text.context) if text.context else []
    if len(turn) <= MAX_WINDOWS:
        yield from turn
        yield from text.edges
        if len(context) <= MAX_WINDOWS:
            yield from context


def pieces(text: Text) -> Pieces | None:
    """None when the question is too long to be compared; of a context that is too long only equality counts."""
    turn = windows(text.turn)
    if len(turn) > MAX_WINDOWS:
        return None
    context = windows(text.context) if text.context else []
    keys = (digest("too long", text.context),) if len(context) > MAX_WINDOWS else tuple(map(digest, context))
    return Pieces(keys, tuple(map(digest, turn)), tuple(map(digest, text.edges)))


def cosine_duplicates(group: Sequence[tuple[int, Pieces]], vectors: Vectors, threshold: float) -> dict[int, int]:
    """Row -> the earlier row of the group whose embedding is as near as `threshold`."""
    import numpy as np  # noqa: PLC0415 - heavy

    kept = np.empty((len(group), vectors.dim), dtype=np.float32)
    kept_rows: list[int] = []
    by_row: Mapping[int, Pieces] = dict(group)
    found: dict[int, int] = {}
    for start in range(0, len(group), BLOCK_ROWS):
        part = group[start : start + BLOCK_ROWS]
        block = np.stack([vectors.mean(each.turn) for _, each in part])
        earlier = len(kept_rows)
        to_kept = block @ kept[:earlier].T
        for at, (row, own) in enumerate(part):
            near = np.concatenate([to_kept[at], kept[earlier : len(kept_rows)] @ block[at]])
            candidates = np.flatnonzero(near >= threshold)
            twin = _first(candidates.tolist(), lambda i, own=own: _near(own, by_row[kept_rows[i]], vectors, threshold))  # type: ignore[misc]
            if twin is not None:
                found[row] = kept_rows[twin]
            else:
                kept[len(kept_rows)] = block[at]
                kept_rows.append(row)
    return found


def _first(candidates: Iterable[int], fits: Callable[[int], bool]) -> int | None:
    return next((each for each in candidates if fits(each)), None)


def _near(one: Pieces, other: Pieces, vectors: Vectors, threshold: float) -> bool:
    if len(one.edges) != len(other.edges):
        return False
    if any(a != b and vectors.of(a) @ vectors.of(b) < threshold for a, b in zip(one.edges, other.edges, strict=True)):
        return False
    if one.context == other.context:
        return True
    try:
        return bool(vectors.mean(one.context) @ vectors.mean(other.context) >= threshold)
    except (KeyError, ValueError):
        return False  # one of them is empty, or too long to be embedded
