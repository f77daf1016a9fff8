"""Trains the weights of the policy `long_reasoning`: P(a right answer needs several dependent steps of reasoning).

A classifier learns to tell *sources* apart before it learns anything about difficulty. So a word counts only if
several sources use it, every source has the same weight, and every figure that is reported, the calibration and the
threshold come from predictions on origins that were held out as a whole.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from policies.calibration import Platt, expected_calibration_error, fit_platt, reliability, sigmoid
from policies.reasoning import (
    BUCKETS,
    STRUCTURE_NAMES,
    WEIGHT_UNIT,
    EmbeddingWeights,
    LinearWeights,
    bucket,
    extract,
)
from trainer.policy_models.logistic import SparseRow, auroc, fit

MIN_SOURCES_PER_WORD = 4
WORD_PENALTY = 2.0
STRUCTURE_PENALTY = 10.0
EMBEDDING_PENALTY = 2.0
DIRECT_ESCALATION_SHARE = 0.10
THRESHOLD_RULE = (
    "the lowest threshold at which at most 10 % of held-out direct prompts escalate, each held-out origin counting "
    "the same"
)
SHIPPED_DATA = Path(__file__).parents[1] / "data" / "reasoning_prompts.csv.gz"


class TrainingDataError(ValueError):
    """The training data cannot be used; the message names the file and the fix."""


@dataclass(frozen=True)
class Example:
    text: str
    label: int
    source: str

    @property
    def origin(self) -> str:
        """What is held out together: `locum:edits` and `locum:planning` have one author."""
        return self.source.partition(":")[0]


@dataclass(frozen=True)
class Dataset:
    examples: list[Example]
    sha256: str


def load(path: Path) -> Dataset:
    """Read a CSV (plain or .gz), or every such file in a folder, with the columns text, label (0 or 1) and source.

    Without the column `source` each file is one source; at least two origins are needed to hold one out.

    Raises:
        TrainingDataError
    """
    files = sorted([*path.glob("*.csv"), *path.glob("*.csv.gz")]) if path.is_dir() else [path]
    if not files:
        raise TrainingDataError(f"{path}: there is no .csv or .csv.gz file in this folder")
    digest = hashlib.sha256()
    examples: list[Example] = []
    for file in files:
        try:
            data = file.read_bytes()
            text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8")
        except (OSError, EOFError, UnicodeDecodeError) as exc:
            raise TrainingDataError(f"{file}: cannot be read: {exc}") from exc
        digest.update(hashlib.sha256(data).digest())
        examples += _parse(text, file)
    if len({each.origin for each in examples}) < 2 or len({each.label for each in examples}) < 2:
        raise TrainingDataError(f"{path}: both labels and at least two origins are needed (column `source`)")
    sha256 = hashlib.sha256(files[0].read_bytes()).hexdigest() if len(files) == 1 else digest.hexdigest()
    return Dataset(examples, sha256)


def _parse(text: str, file: Path) -> list[Example]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = {"text", "label"} - set(reader.fieldnames or ())
    if missing:
        raise TrainingDataError(f"{file}: the column {sorted(missing)[0]!r} is missing")
    examples = []
    for row in reader:
        if row["label"] not in ("0", "1"):
            raise TrainingDataError(f"{file}, line {reader.line_num}: label is {row['label']!r}, not 0 or 1")
        examples.append(Example(row["text"] or "", int(row["label"]), row.get("source") or file.name.split(".")[0]))
    return examples


def train(data: Dataset, report: Callable[[str], None], note: str = "") -> LinearWeights:
    """Fit the linear weights, hold each origin out once, calibrate and choose the default threshold."""
    examples = data.examples
    rows = [_sparse(each.text) for each in examples]

    def fitted(indices: Sequence[int]) -> Callable[[int], float]:
        weights, intercept = _fit_linear(rows, examples, indices)
        return lambda index: intercept + sum(weights[feature] * value for feature, value in rows[index])

    held_out = _held_out_logits(examples, fitted, report)
    platt, scores = _calibrated(examples, held_out)
    weights, intercept = _fit_linear(rows, examples, range(len(examples)))
    words = {
        slot: units
        for slot in range(BUCKETS)
        if (units := round(weights[len(STRUCTURE_NAMES) + slot] / WEIGHT_UNIT)) != 0
    }
    bins = reliability(scores, [each.label == 1 for each in examples])
    return LinearWeights(
        structure={name: round(weights[index], 6) for index, name in enumerate(STRUCTURE_NAMES)},
        words=words,
        intercept=round(intercept, 6),
        slope=round(platt.slope, 6),
        shift=round(platt.intercept, 6),
        default_threshold=round(choose_threshold(examples, scores), 3),
        threshold_rule=THRESHOLD_RULE,
        training_data_sha256=data.sha256,
        n=len(examples),
        n_positive=sum(each.label for each in examples),
        sources=_auroc_by_source(examples, scores),
        auroc_held_out=_overall_auroc(examples, scores),
        calibration_curve=bins,
        ece=round(expected_calibration_error(bins), 4),
        note=note,
    )


def train_embedding(
    data: Dataset, embeddings: Sequence[Sequence[float]], encoder: str, report: Callable[[str], None], note: str = ""
) -> EmbeddingWeights:
    """Fit the optional head.

    Args:
        embeddings: [n, D], unit length, of the examples' texts in their order.
    """
    examples = data.examples
    rows: list[SparseRow] = [list(enumerate(vector)) for vector in embeddings]

    def fit_on(indices: Sequence[int]) -> tuple[list[float], float]:
        return fit(
            [rows[i] for i in indices],
            [examples[i].label for i in indices],
            _source_weights([examples[i] for i in indices]),
            [EMBEDDING_PENALTY] * len(rows[0]),
            epochs=8,
        )

    def fitted(indices: Sequence[int]) -> Callable[[int], float]:
        weights, intercept = fit_on(indices)
        return lambda index: intercept + sum(weights[feature] * value for feature, value in rows[index])

    held_out = _held_out_logits(examples, fitted, report)
    platt, scores = _calibrated(examples, held_out)
    weights, intercept = fit_on(range(len(examples)))
    bins = reliability(scores, [each.label == 1 for each in examples])
    return EmbeddingWeights(
        encoder=encoder,
        weights=tuple(round(platt.slope * weight, 5) for weight in weights),
        intercept=round(platt.slope * intercept + platt.intercept, 5),
        training_data_sha256=data.sha256,
        n=len(examples),
        sources=_auroc_by_source(examples, scores),
        auroc_held_out=_overall_auroc(examples, scores),
        calibration_curve=bins,
        ece=round(expected_calibration_error(bins), 4),
        note=note,
    )


def choose_threshold(examples: Sequence[Example], scores: Sequence[float]) -> float:
    """See THRESHOLD_RULE; escalation means score > threshold."""
    by_origin: dict[str, list[float]] = {}
    for each, score in zip(examples, scores, strict=True):
        if each.label == 0:
            by_origin.setdefault(each.origin, []).append(score)
    for threshold in sorted({0.0, *(score for values in by_origin.values() for score in values)}):
        shares = [sum(score > threshold for score in values) / len(values) for values in by_origin.values()]
        if sum(shares) / len(shares) <= DIRECT_ESCALATION_SHARE:
            return math.ceil(threshold * 1_000) / 1_000
    return 1.0


def _sparse(text: str) -> SparseRow:
    features = extract(text)
    row = list(enumerate(features.structure))
    share = 1 / math.sqrt(len(features.words) or 1)
    slots: dict[int, float] = {}
    for word in sorted(features.words):
        slot = len(STRUCTURE_NAMES) + bucket(word)
        slots[slot] = slots.get(slot, 0.0) + share
    return row + list(slots.items())


def _fit_linear(
    rows: Sequence[SparseRow], examples: Sequence[Example], indices: Sequence[int]
) -> tuple[list[float], float]:
    """Weights over structure and word buckets; buckets that too few sources use stay 0."""
    sources_of: dict[int, set[str]] = {}
    for index in indices:
        for feature, _ in rows[index]:
            sources_of.setdefault(feature, set()).add(examples[index].source)
    structure = len(STRUCTURE_NAMES)
    kept = {f for f, sources in sources_of.items() if f < structure or len(sources) >= MIN_SOURCES_PER_WORD}
    return fit(
        [[item for item in rows[index] if item[0] in kept] for index in indices],
        [examples[index].label for index in indices],
        _source_weights([examples[index] for index in indices]),
        [STRUCTURE_PENALTY] * structure + [WORD_PENALTY] * BUCKETS,
    )


def _source_weights(examples: Sequence[Example]) -> list[float]:
    """Every (source, label) counts the same within its label, both labels count the same; mean 1."""
    sizes: dict[tuple[str, int], int] = {}
    for each in examples:
        sizes[each.source, each.label] = sizes.get((each.source, each.label), 0) + 1
    groups = [sum(1 for _, label in sizes if label == wanted) for wanted in (0, 1)]
    return [len(examples) / (2 * groups[each.label] * sizes[each.source, each.label]) for each in examples]


def _held_out_logits(
    examples: Sequence[Example],
    fitted: Callable[[Sequence[int]], Callable[[int], float]],
    report: Callable[[str], None],
) -> list[float]:
    """The logit of each example by weights that never saw its origin."""
    logits = [0.0] * len(examples)
    for origin in sorted({each.origin for each in examples}):
        rest = [index for index, each in enumerate(examples) if each.origin != origin]
        if len({examples[index].label for index in rest}) < 2:
            raise TrainingDataError(f"without the origin {origin!r} only one label is left: add another source")
        predict = fitted(rest)
        for index, each in enumerate(examples):
            if each.origin == origin:
                logits[index] = predict(index)
        report(f"held out {origin}")
    return logits


def _calibrated(examples: Sequence[Example], logits: Sequence[float]) -> tuple[Platt, list[float]]:
    platt = fit_platt(logits, [each.label == 1 for each in examples])
    return platt, [sigmoid(platt.slope * logit + platt.intercept) for logit in logits]


def _auroc_by_source(examples: Sequence[Example], scores: Sequence[float]) -> dict[str, float | None]:
    """Within a source that has both labels, else its rows against all rows of the other label."""
    result: dict[str, float | None] = {}
    for source in sorted({each.source for each in examples}):
        own: list[list[float]] = [[], []]
        other: list[list[float]] = [[], []]
        for each, score in zip(examples, scores, strict=True):
            (own if each.source == source else other)[each.label].append(score)
        value = auroc(own[1] or other[1], own[0] or other[0])
        result[source] = None if value is None else round(value, 4)
    return result


def _overall_auroc(examples: Sequence[Example], scores: Sequence[float]) -> float:
    positive = [score for each, score in zip(examples, scores, strict=True) if each.label == 1]
    negative = [score for each, score in zip(examples, scores, strict=True) if each.label == 0]
    return round(auroc(positive, negative) or 0.0, 4)
