"""From the answers of one family of tasks: what a window of each size would have seen.

Every answer was streamed whole, so all windows are looked at on the same answers. An answer that ends within a window
is judged as a whole, as the gateway does it. "Wrong" is what a score has to find.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.calibration import cross_fitted, expected_calibration_error, fit, reliability
from policies.intervals import Estimate, proportion
from trainer.evaluation.statistics import auroc
from trainer.window.collect import Row
from trainer.window.halves import ALARM_WINDOWS, SHARE, Alarm, Growth, alarms, growths, halves
from trainer.window.scores import FOLDS, Bools, Floats, mean_of

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
CONFIDENCE = 0.95
DEFAULTS = (4, 8, 16, 32, 64, 128)
"""Windows of which one is the default."""
ENOUGH = 0.9
"""Of what whole answers would gain."""


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """One window."""

    tokens: int
    """0: the whole answer."""
    auroc: float
    """Of "the answer is wrong", by the mean logprob of what is held back."""
    low: float
    high: float
    whole_share: float
    """Of the answers that end within it."""
    hit: Estimate
    """Share of wrong answers among the 20 % with the lowest means, which are escalated first."""
    ece_whole: float | None
    """Of the curve of whole answers put on prefixes; None: too few answers. Cross-fitted."""
    ece_prefix: float | None
    """Of a curve of its own, cross-fitted as well."""


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """All that is reported of one family."""

    family: str
    answers: int
    right: float
    tokens_p10: float
    tokens_p50: float
    tokens_p90: float
    sizes: tuple[Size, ...]
    growths: tuple[Growth, ...]
    alarms: tuple[Alarm, ...]
    chosen_alarms: dict[int, tuple[float | None, ...]]
    """Window → the alarm's threshold that each half has chosen for the other."""

    def size(self, tokens: int) -> Size:
        return next(each for each in self.sizes if each.tokens == tokens)

    def gain(self, tokens: int) -> float:
        """How much better than by lot the first fifth is escalated, as a share of what whole answers would gain."""
        by_lot = 1 - self.right
        most = self.size(0).hit.value - by_lot
        return (self.size(tokens).hit.value - by_lot) / most if most > 0 else math.nan


def analyse(family: str, rows: Sequence[Row], *, resamples: int = 500, seed: int = 0) -> Analysis:
    """Raises: ValueError: all answers are right, or all are wrong."""
    first = _once_each(rows)
    wrong = np.array([not row.right for row in first], np.bool_)
    if wrong.all() or not wrong.any():
        raise ValueError(f"{family}: {len(first)} answers, {int((~wrong).sum())} right: both outcomes must occur")
    lengths = np.array([len(row.logprobs) for row in first], np.float64)
    draw = np.random.default_rng(seed)
    samples = [draw.integers(0, len(first), len(first)) for _ in range(resamples)]
    parts = halves(first)
    return Analysis(
        family=family,
        answers=len(first),
        right=float(1 - wrong.mean()),
        tokens_p10=float(np.quantile(lengths, 0.1)),
        tokens_p50=float(np.median(lengths)),
        tokens_p90=float(np.quantile(lengths, 0.9)),
        sizes=tuple(_size(first, wrong, tokens, samples) for tokens in (*SIZES, 0)),
        growths=tuple(growths(parts)),
        alarms=tuple(alarms(parts)),
        chosen_alarms={window: tuple(part.chosen(window) for part in parts) for window in ALARM_WINDOWS},
    )


def _once_each(rows: Sequence[Row]) -> list[Row]:
    """Every task once, of the run with the most answers at a time. Empty answers have no mean: they are left out."""
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda each: each.concurrency):
        if len(row.logprobs) > row.stop_token:
            best[row.task_id] = row
    return sorted(best.values(), key=lambda each: each.task_id)


def _area(scores: Floats, positive: Bools) -> float:
    """AUROC; NaN when there is but one kind, so that an interval over such resamples is none."""
    found = auroc(scores, positive)
    return math.nan if found is None else found


def _size(rows: Sequence[Row], wrong: Bools, tokens: int, samples: Sequence[NDArray[np.int64]]) -> Size:
    scores = np.array([-mean_of(row, tokens) for row in rows])
    whole = np.array([not 0 < tokens < len(row.logprobs) for row in rows])
    drawn = [_area(scores[sample], wrong[sample]) for sample in samples]
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    worst = np.argsort(-scores, kind="stable")[: round(SHARE * len(rows))]
    ece_whole, ece_prefix = _calibration(rows, tokens) if tokens else (None, None)
    return Size(
        tokens=tokens, auroc=_area(scores, wrong), low=float(low), high=float(high), whole_share=float(whole.mean()),
        hit=proportion(int(wrong[worst].sum()), len(worst)), ece_whole=ece_whole, ece_prefix=ece_prefix,
    )  # fmt: skip


def _calibration(rows: Sequence[Row], tokens: int) -> tuple[float | None, float | None]:
    """ECE of the two curves on answers that go on behind the window."""
    going_on = [row for row in rows if len(row.logprobs) > tokens]
    right = [row.right for row in going_on]
    if min(sum(right), len(right) - sum(right)) < 2 * FOLDS:
        return None, None
    prefixes, wholes = ([mean_of(row, size) for row in going_on] for size in (tokens, 0))
    own = cross_fitted(prefixes, right, folds=FOLDS)
    borrowed = _borrowed(wholes, prefixes, right)
    return tuple(expected_calibration_error(reliability(found, right)) for found in (borrowed, own))  # type: ignore[return-value]


def _borrowed(fitted_on: Sequence[float], used_on: Sequence[float], right: Sequence[bool]) -> list[float]:
    """Confidences of prefixes by curves of whole answers, of other folds."""
    found = [0.0] * len(right)
    for fold in range(FOLDS):
        rest = [place for place in range(len(right)) if place % FOLDS != fold]
        curve = fit([fitted_on[place] for place in rest], [right[place] for place in rest])
        for place in range(fold, len(right), FOLDS):
            found[place] = curve.confidence(used_on[place]) or 0.0
    return found


def enough(found: Analysis) -> int | None:
    """The smallest window that gains enough; None: none does."""
    return next((tokens for tokens in DEFAULTS if found.gain(tokens) >= ENOUGH), None)


def default_window(found: Sequence[Analysis]) -> int | None:
    """The middle one of what the families need (of an even number the larger): a window that is enough for all of them
    would hold back whole answers of most. None: nothing is enough for the middle one."""
    needed = sorted(enough(each) or math.inf for each in found)
    middle = needed[len(needed) // 2]
    return None if math.isinf(middle) else int(middle)
