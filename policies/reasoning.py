"""The features and the linear model behind `long_reasoning`: no model server, no numpy, microseconds per request.

Words are hashed, so the weights have a fixed size and hold no text of the training data. All byte work is done by
C-level methods of `bytes` and `dict`; a Python loop over the words would cost more than the whole budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import log1p
from operator import mul
from zlib import crc32

import msgspec

from policies.calibration import ReliabilityBin, sigmoid

FEATURE_SCHEMA = 1
"""Version of everything in this file that changes a feature's value; weights of another version are refused."""

HEAD_CHARS = 400
TAIL_CHARS = 400
"""Of a longer text only this much of both ends is looked at: the task is stated at the start or at the end."""
BUCKETS = 2**14
WEIGHT_UNIT = 1e-4
"""Word weights are whole multiples of this, so that their sum does not depend on the order of the words."""
MAX_REMEMBERED_WORDS = 20_000


def _words_table() -> bytes:
    """Letters to lower case, every digit to `0`, all other bytes to a blank: the vocabulary is English only."""
    table = bytearray(b" " * 256)
    for byte in range(256):
        character = chr(byte)
        if byte < 128 and character.isalnum():
            table[byte] = ord("0") if character.isdigit() else ord(character.lower())
    return bytes(table)


_WORDS = _words_table()
_NUMBERS = bytes(byte if byte == ord("0") else ord(" ") for byte in _WORDS)
_NOT_MATH = bytes(byte for byte in range(256) if byte not in b"=+*/^<>%|\\")
_NOT_CODE = bytes(byte for byte in range(256) if byte not in b"{}[]();_")

CONSTRAINTS = frozenset(
    b"must only exactly each every unless except without between least most until before after cannot if then "
    b"assume given suppose constraint constraints satisfy satisfies minimum maximum minimize maximize twice half "
    b"remaining respectively per".split()
)
STEPS = frozenset(
    b"prove derive deduce calculate compute determine solve plan optimize schedule explain why steps step justify "
    b"compare evaluate debug analyze design algorithm complexity probability total altogether conclude".split()
)
LOOKUPS = frozenset(
    b"translate summarize summarise rewrite rephrase paraphrase define spell list name who when where synonym "
    b"capital convert fix correct grammar classify extract shorten format title".split()
)
PHRASES = (
    (b"how", b"how many"),
    (b"how", b"how much"),
    (b"how", b"how long"),
    (b"such", b"such that"),
    (b"that", b"show that"),
)
"""Phrases, each with a word of it: the text is only searched for a phrase whose word it has."""

LIST_ITEMS = (b"\n- ", b"\n2")

STRUCTURE_NAMES = (
    "log_chars",
    "log_words",
    "log_numbers",
    "digit_share",
    "log_math_signs",
    "log_code_signs",
    "log_questions",
    "log_lines",
    "log_list_items",
    "log_sentences",
    "has_code_block",
    "log_constraint_words",
    "log_step_words",
    "log_lookup_words",
    *("phrase_" + phrase.decode().replace(" ", "_") for _, phrase in PHRASES),
)


class Features(msgspec.Struct, frozen=True):
    """What the linear model sees of one text."""

    structure: tuple[float, ...]
    """In the order of `STRUCTURE_NAMES`; logarithms are `log(1 + count)`."""
    words: frozenset[bytes]
    """Distinct words; each weighs 1 / sqrt(number of words)."""


def extract(text: str) -> Features:
    """Features of the bounded head and tail of `text`; never raises, whatever the text."""
    chars = len(text)
    if chars > HEAD_CHARS + TAIL_CHARS:
        text = text[:HEAD_CHARS] + "\n" + text[-TAIL_CHARS:]
    data = text.encode("utf-8", "replace")
    plain = data.translate(_WORDS, b"'")
    split = plain.split()
    words = frozenset(split)
    lines = data.count(b"\n")
    structure = (
        log1p(chars),
        log1p(len(split)),
        log1p(len(data.translate(_NUMBERS).split())),
        plain.count(b"0") / (len(data) or 1),
        log1p(len(data.translate(None, _NOT_MATH))),
        log1p(len(data.translate(None, _NOT_CODE))),
        log1p(data.count(b"?")),
        log1p(lines),
        log1p(sum(map(data.count, LIST_ITEMS))) if lines else 0.0,
        log1p(data.count(b". ") + lines),
        1.0 if b"```" in data else 0.0,
        log1p(len(words & CONSTRAINTS)),
        log1p(len(words & STEPS)),
        log1p(len(words & LOOKUPS)),
        *[1.0 if word in words and phrase in plain else 0.0 for word, phrase in PHRASES],
    )
    return Features(structure, words)


def bucket(word: bytes) -> int:
    """Slot of a word in the hashed vocabulary; the same in every process (Python's own hash is not)."""
    return crc32(word) % BUCKETS


class LinearWeights(msgspec.Struct, frozen=True, kw_only=True):
    """The artefact: a logistic regression whose output is calibrated on sources it was not fitted on."""

    schema: int = FEATURE_SCHEMA
    structure: dict[str, float]
    """Weight of each feature in `STRUCTURE_NAMES`."""
    words: dict[int, int]
    """Bucket to weight, in units of `WEIGHT_UNIT`; buckets that are left out weigh 0."""
    intercept: float
    slope: float = 1.0
    """Platt's slope and intercept are folded in: score = sigmoid(slope * logit + shift)."""
    shift: float = 0.0
    default_threshold: float
    threshold_rule: str
    training_data_sha256: str
    n: int
    n_positive: int
    sources: dict[str, float | None]
    """AUROC on each source when it was held out; None where the source has only one class."""
    auroc_held_out: float
    """Over all rows, each scored by weights that never saw its source."""
    calibration_curve: tuple[ReliabilityBin, ...]
    ece: float
    note: str = ""


class LinearScorer:
    """P(multi-step reasoning is needed) of a text. Holds a bounded memo of word weights; otherwise immutable."""

    def __init__(self, weights: LinearWeights) -> None:
        if set(weights.structure) != set(STRUCTURE_NAMES):
            raise ValueError("the weights are for other features than this version computes")
        self._structure = tuple(weights.structure[name] for name in STRUCTURE_NAMES)
        self._words = _WordWeights(weights.words)
        self._intercept = weights.intercept
        self._slope = weights.slope
        self._shift = weights.shift

    def score(self, text: str) -> float:
        """In [0, 1]; the same in every process and on every platform with IEEE doubles."""
        features = extract(text)
        lexical = sum(map(self._words.__getitem__, features.words)) * WEIGHT_UNIT
        logit = self._intercept + lexical / math.sqrt(len(features.words) or 1)
        logit += sum(map(mul, self._structure, features.structure))
        return sigmoid(self._slope * logit + self._shift)


class _WordWeights(dict[bytes, int]):
    """Word to weight; a word that is met for the first time is hashed and, while there is room, remembered."""

    def __init__(self, by_bucket: dict[int, int]) -> None:
        super().__init__()
        self._by_bucket = by_bucket

    def __missing__(self, word: bytes) -> int:
        weight = self._by_bucket.get(bucket(word), 0)
        if len(self) < MAX_REMEMBERED_WORDS and len(word) <= 32:
            self[word] = weight
        return weight


class EmbeddingWeights(msgspec.Struct, frozen=True, kw_only=True):
    """The artefact of the optional head: logistic regression on the embedding of the last user turn."""

    schema: int = FEATURE_SCHEMA
    encoder: str
    weights: tuple[float, ...]
    intercept: float
    training_data_sha256: str
    n: int
    sources: dict[str, float | None]
    auroc_held_out: float
    calibration_curve: tuple[ReliabilityBin, ...]
    ece: float
    note: str = ""

    def score(self, embedding: Sequence[float]) -> float | None:
        """In [0, 1]; None when the embedding is of another size than the one it was fitted on."""
        if len(embedding) != len(self.weights):
            return None
        return sigmoid(self.intercept + sum(map(mul, self.weights, embedding)))
