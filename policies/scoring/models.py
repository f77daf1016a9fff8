"""The models of a learned score: sums of weights, and trees; those of curves are in `curves`. Plain numbers; evaluated
without numpy.

A model sees named inputs, of which each may be missing (NaN), the terms of a text, and an embedding. Whatever numbers a
file holds, evaluating it ends, and a file whose numbers do not fit together is refused when it is read.
"""

from __future__ import annotations

import base64
import binascii
import math
from array import array
from collections.abc import Sequence
from math import isnan
from operator import mul
from typing import Literal

import msgspec

from policies.calibration import sigmoid
from policies.scoring.curves import Curves, CurvesScorer
from policies.scoring.text import TextFeatures, bucket, parts

MAX_BUCKETS = 2**20
MAX_NODES = 2**20
MAX_REMEMBERED_WORDS = 50_000

BLOCKS = ("words", "pairs", "parts")
"""Of the terms of a text; a term's block is part of its hash."""
WORDS, PAIRS, PARTS = range(len(BLOCKS))

Element = Literal["f", "d", "i"]


class Numbers(msgspec.Struct, frozen=True):
    """An array in a JSON file: little-endian, base64."""

    kind: Element
    """As in the module array: 32-bit and 64-bit floats, 32-bit integers."""
    data: str

    @classmethod
    def of(cls, values: Sequence[float] | Sequence[int], kind: Element) -> Numbers:
        packed = array(kind, values)
        if _BIG_ENDIAN:
            packed.byteswap()
        return cls(kind, base64.b64encode(packed.tobytes()).decode())

    def values(self) -> array[float]:
        """Raises: ValueError: no base64, no whole number of elements, or a number that is not finite."""
        try:
            unpacked: array[float] = array(self.kind)
            unpacked.frombytes(base64.b64decode(self.data, validate=True))
        except binascii.Error as exc:
            raise ValueError(f"an array is no base64: {exc}") from exc
        if _BIG_ENDIAN:
            unpacked.byteswap()
        if not all(map(math.isfinite, unpacked)):
            raise ValueError("an array has a number that is not finite")
        return unpacked


_BIG_ENDIAN = array("H", [1]).tobytes()[0] == 0


class DenseWeight(msgspec.Struct, frozen=True, array_like=True):
    """What one input adds: `weight` times its value within [low, high], `missing` where it has none.

    The bounds are those of the training data: a value that was never seen must not dominate the score.
    """

    weight: float
    missing: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (all(map(math.isfinite, (self.weight, self.missing, self.low, self.high))) and self.low <= self.high):
            raise ValueError("a dense weight is finite, with low <= high")


class Lexical(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of hashed terms. A block adds scale * sum(weight of its terms) / sqrt(sum(square of its terms)).

    `squares` are those of the terms' inverse document frequencies, which are folded into the weights as well: the terms
    of a block are a TF-IDF row of unit length. Parts of words count once for each distinct word that they are in.
    """

    buckets: int
    blocks: tuple[Literal["words", "pairs", "parts"], ...]
    weights: dict[str, Numbers]
    """block -> [buckets]"""
    squares: dict[str, Numbers]
    """block -> [buckets], at least 0."""


class Linear(msgspec.Struct, frozen=True, kw_only=True, tag="linear"):
    """intercept + what the inputs, the terms of the text and the embedding add."""

    intercept: float
    dense: dict[str, DenseWeight] = {}
    lexical: Lexical | None = None
    embedding: Numbers | None = None
    """[size of the embedding]"""
    squash: bool = False
    """Give the logistic function of the sum instead of the sum: a probability."""


class Trees(msgspec.Struct, frozen=True, kw_only=True, tag="trees"):
    """base + the sum of one leaf of every tree. Nodes of all trees stand in one list, children after their parents.

    At an inner node an input goes left when it is <= threshold, both as 32-bit floats, and where it is missing as
    `missing_left` says (scikit-learn's convention).
    """

    base: float
    inputs: tuple[str, ...]
    """Names of inputs, or `part_<i>`: what the i-th part of the same artefact gave."""
    roots: Numbers
    feature: Numbers
    """[nodes], index into inputs; any at a leaf."""
    threshold: Numbers
    left: Numbers
    """[nodes], index of a node, -1 at a leaf."""
    right: Numbers
    missing_left: Numbers
    """[nodes], 0 or 1."""
    value: Numbers
    """[nodes], of the leaves."""


Part = Linear | Trees | Curves


class LexicalScorer:
    """What the terms of a text add. Remembers words that it has met, in bounded number; otherwise immutable."""

    def __init__(self, model: Lexical) -> None:
        """Raises: ValueError: sizes do not fit."""
        if not 0 < model.buckets <= MAX_BUCKETS:
            raise ValueError(f"buckets: between 1 and {MAX_BUCKETS}")
        self._buckets = model.buckets
        self._weights = {block: _sized(model.weights, block, model.buckets) for block in model.blocks}
        self._squares = {block: _sized(model.squares, block, model.buckets) for block in model.blocks}
        if any(min(squares) < 0.0 for squares in self._squares.values()):
            raise ValueError("squares: at least 0")
        self._has_pairs = "pairs" in model.blocks
        self._words: dict[str, tuple[float, float, float, float]] = {}
        """word -> weight and square of itself, and those of its parts together."""

    def score(self, text: TextFeatures) -> float:
        w_words = s_words = w_parts = s_parts = 0.0
        known = self._words
        for word in text.words:
            found = known.get(word)
            if found is None:
                found = self._look_up(word)
            w_words += found[0]
            s_words += found[1]
            w_parts += found[2]
            s_parts += found[3]
        total = _of_unit_length(w_words, s_words) + _of_unit_length(w_parts, s_parts)
        return total + self._pairs(text.pairs) if self._has_pairs else total

    def _pairs(self, pairs: Sequence[str]) -> float:
        weights, squares, buckets = self._weights["pairs"], self._squares["pairs"], self._buckets
        slots = [bucket(pair, PAIRS, buckets) for pair in pairs]
        return _of_unit_length(sum(map(weights.__getitem__, slots)), sum(map(squares.__getitem__, slots)))

    def _look_up(self, word: str) -> tuple[float, float, float, float]:
        found = (*self._sums("words", [word]), *self._sums("parts", parts(word)))
        if len(self._words) < MAX_REMEMBERED_WORDS:
            self._words[word] = found
        return found

    def _sums(self, block: str, terms: Sequence[str]) -> tuple[float, float]:
        if block not in self._weights:
            return 0.0, 0.0
        slots = [bucket(term, BLOCKS.index(block), self._buckets) for term in terms]
        weights, squares = self._weights[block], self._squares[block]
        return sum(weights[slot] for slot in slots), sum(squares[slot] for slot in slots)


class LinearScorer:
    """A `Linear`, unpacked."""

    def __init__(self, model: Linear) -> None:
        """Raises: ValueError: numbers that do not fit together."""
        if not math.isfinite(model.intercept):
            raise ValueError("intercept: must be finite")
        self._intercept = model.intercept
        self._squash = model.squash
        self._dense = [(name, *msgspec.structs.astuple(each)) for name, each in model.dense.items()]
        self._lexical = None if model.lexical is None else LexicalScorer(model.lexical)
        self._embedding = None if model.embedding is None else model.embedding.values()
        self.inputs = frozenset(model.dense)
        self.embedding_size = None if self._embedding is None else len(self._embedding)

    def score(self, inputs: dict[str, float], text: TextFeatures | None, embedding: Sequence[float] | None) -> float:
        total = self._intercept
        for name, weight, missing, low, high in self._dense:
            value = inputs[name]
            total += missing if isnan(value) else weight * min(max(value, low), high)
        if self._lexical is not None and text is not None:
            total += self._lexical.score(text)
        if self._embedding is not None and embedding is not None:
            total += sum(map(mul, self._embedding, embedding))
        return sigmoid(total) if self._squash else total


class TreesScorer:
    """A `Trees`, unpacked."""

    def __init__(self, model: Trees) -> None:
        """Raises: ValueError: numbers that do not fit together."""
        self._base = model.base
        self._names = model.inputs
        self.inputs = frozenset(model.inputs)
        self.embedding_size = None
        self._roots = _integers(model.roots)
        self._feature, self._left, self._right = (_integers(each) for each in (model.feature, model.left, model.right))
        self._missing_left = bytes(map(bool, _integers(model.missing_left)))
        # Arrays, not lists: a tenth of the memory, and a walk down a tree mostly waits for memory.
        self._threshold, self._value = model.threshold.values(), model.value.values()
        self._check()

    def _check(self) -> None:
        """Children stand after their parents, so that every walk from a root ends in a leaf."""
        nodes = len(self._feature)
        columns = (self._left, self._right, self._missing_left, self._threshold, self._value)
        if not 0 < nodes <= MAX_NODES or {len(column) for column in columns} != {nodes}:
            raise ValueError(f"nodes: between 1 and {MAX_NODES}, in columns of one length")
        if not math.isfinite(self._base) or not all(0 <= root < nodes for root in self._roots):
            raise ValueError("a root is the index of a node, and the base is finite")
        for node, (feature, left, right) in enumerate(zip(self._feature, self._left, self._right, strict=True)):
            leaf = left == -1
            if not leaf and not (node < left < nodes and node < right < nodes and 0 <= feature < len(self._names)):
                raise ValueError(f"node {node} has no children after it, or no input")

    def score(self, inputs: dict[str, float], text: TextFeatures | None, embedding: Sequence[float] | None) -> float:
        values = array("f", [inputs[name] for name in self._names])
        feature, threshold, left, right = self._feature, self._threshold, self._left, self._right
        missing_left = self._missing_left
        total = self._base
        for root in self._roots:
            node = root
            while (below := left[node]) >= 0:
                value = values[feature[node]]
                goes_left = value <= threshold[node] or (missing_left[node] and isnan(value))
                node = below if goes_left else right[node]
            total += self._value[node]
        return total


def scorer(part: Part) -> LinearScorer | TreesScorer | CurvesScorer:
    """Raises: ValueError: the numbers do not fit together."""
    if isinstance(part, Curves):
        return CurvesScorer(part)
    return LinearScorer(part) if isinstance(part, Linear) else TreesScorer(part)


def _of_unit_length(weights: float, squares: float) -> float:
    return weights / math.sqrt(squares) if squares > 0.0 else 0.0


def _integers(numbers: Numbers) -> array[int]:
    if numbers.kind != "i":
        raise ValueError("an array of indices must be of integers")
    return array("i", map(int, numbers.values()))


def _sized(numbers: dict[str, Numbers], block: str, size: int) -> array[float]:
    if block not in numbers:
        raise ValueError(f"the block {block} has no numbers")
    values = numbers[block].values()
    if len(values) != size:
        raise ValueError(f"the block {block} has {len(values)} numbers for {size} buckets")
    return values
