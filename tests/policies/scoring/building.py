"""Small scores, written by hand."""

from __future__ import annotations

from typing import Any

from policies.calibration import Platt
from policies.scoring import text
from policies.scoring.model import ScoreArtefact, TrainingData
from policies.scoring.models import BLOCKS, DenseWeight, Lexical, Linear, Numbers, Part, Trees

TRAINING = TrainingData(sha256="0" * 64, n=100, columns=("prompt", "weak", "strong"), date="2026-01-01")
BUCKETS = 1024


def artefact_of(*parts: Part, **changes: Any) -> ScoreArtefact:
    values: dict[str, Any] = {
        "use": "prompt",
        "learner": "by_hand",
        "inputs": (),
        "parts": parts,
        "weights": (1.0,) * len(parts),
        "calibrator": Platt(slope=1.0, intercept=0.0),
        "reliability": (),
        "ece": 0.0,
        "training": TRAINING,
    }
    return ScoreArtefact(**{**values, **changes})


def lexical(weights: dict[str, dict[str, float]]) -> Lexical:
    """Weights of terms by block, all terms with a square of 1."""
    columns = {}
    for block, terms in weights.items():
        column = [0.0] * BUCKETS
        for term, weight in terms.items():
            column[text.bucket(term, BLOCKS.index(block), BUCKETS)] = weight
        columns[block] = Numbers.of(column, "f")
    ones = Numbers.of([1.0] * BUCKETS, "f")
    return Lexical(
        buckets=BUCKETS,
        blocks=tuple(weights),  # type: ignore[arg-type]
        weights=columns,
        squares=dict.fromkeys(weights, ones),
    )


def word_score(hard: str, **changes: Any) -> ScoreArtefact:
    """Texts with the word `hard` score high, all others low."""
    linear = Linear(intercept=-2.0, lexical=lexical({"words": {hard: 8.0}}))
    return artefact_of(linear, text_schema=text.SCHEMA, **changes)


def dense(weight: float, *, missing: float = 0.0, low: float = -10.0, high: float = 10.0) -> DenseWeight:
    return DenseWeight(weight, missing, low, high)


def stump(name: str, threshold: float, *, below: float, above: float, missing_left: bool = False) -> Trees:
    """One tree with one question."""
    return Trees(
        base=0.0,
        inputs=(name,),
        roots=Numbers.of([0], "i"),
        feature=Numbers.of([0, 0, 0], "i"),
        threshold=Numbers.of([threshold, 0.0, 0.0], "d"),
        left=Numbers.of([1, -1, -1], "i"),
        right=Numbers.of([2, -1, -1], "i"),
        missing_left=Numbers.of([int(missing_left), 0, 0], "i"),
        value=Numbers.of([0.0, below, above], "d"),
    )
