"""From the answers of one run: what a window of each size would have seen, and what it would have cost.

Every answer was streamed whole, so all windows are looked at on the same answers. An answer that ends within a window
is judged as a whole, as the gateway does it. "Wrong" is what a score has to find.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.calibration import (
    MEAN_LOGPROB,
    CalibratorArtefact,
    cross_fitted,
    expected_calibration_error,
    fit,
    reliability,
)
from policies.draft_signals import PREFIX_TOKENS
from policies.prefix_calibration import Answer, fit_prefixes, prefix_curve
from trainer.evaluation.statistics import auroc
from trainer.window.collect import Row

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
CONFIDENCE = 0.95
SHARE = 0.2
FOLDS = 5
BANDS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
ALARM_TOKENS = 32
ALARMS = (0.7, 0.8, 0.9, 0.95)
Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


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
    wrong_found: float
    """Of the wrong answers, when the 20 % with the lowest means are escalated."""
    ece_whole: float | None
    """Of the curve of whole answers put on prefixes; None: too few answers."""
    ece_prefix: float | None
    """Of a curve of its own, cross-fitted like the other."""


class Delay(msgspec.Struct, frozen=True, kw_only=True):
    """What a window adds to the time to the first token, in seconds."""

    tokens: int
    concurrency: int
    p50_s: float
    p90_s: float


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """A window that doubles while the score is within a band around the threshold."""

    tokens: int
    max_tokens: int
    band: float
    mean_tokens: float
    escalated: float
    wrong_found: float
    right_lost: float
    """Of the right answers: escalated."""


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """What a late alarm would have done behind a window that has let everything through that it let through."""

    window_tokens: int
    threshold: float
    wrong_stopped: float
    right_stopped: float
    median_token: float | None
    """At which it rang."""


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """All that is reported."""

    answers: int
    right: float
    tokens_p10: float
    tokens_p50: float
    tokens_p90: float
    sizes: tuple[Size, ...]
    delays: tuple[Delay, ...]
    growths: tuple[Growth, ...]
    alarms: tuple[Alarm, ...]


def analyse(rows: Sequence[Row], *, resamples: int = 500, seed: int = 0) -> Analysis:
    """Raises: ValueError: all answers are right, or all are wrong."""
    first = _once_each(rows)
    wrong = np.array([not row.right for row in first])
    if wrong.all() or not wrong.any():
        raise ValueError(f"{len(first)} answers, {int((~wrong).sum())} right: both outcomes must occur")
    lengths = np.array([len(row.logprobs) for row in first], np.float64)
    draw = np.random.default_rng(seed)
    samples = [draw.integers(0, len(first), len(first)) for _ in range(resamples)]
    scores = _Scores(first)
    return Analysis(
        answers=len(first),
        right=float(1 - wrong.mean()),
        tokens_p10=float(np.quantile(lengths, 0.1)),
        tokens_p50=float(np.median(lengths)),
        tokens_p90=float(np.quantile(lengths, 0.9)),
        sizes=tuple(_size(first, wrong, tokens, samples) for tokens in (*SIZES, 0)),
        delays=tuple(_delays(rows)),
        growths=tuple(_growths(scores, wrong)),
        alarms=tuple(_alarms(first, scores, wrong)),
    )


def mean_of(row: Row, tokens: int) -> float:
    """Mean logprob of the first tokens, or of the whole answer without its stop token where that ends within them."""
    content = row.logprobs[:-1] if row.finish_reason == "stop" and len(row.logprobs) > 1 else row.logprobs
    seen = content[:tokens] if 0 < tokens < len(row.logprobs) else content
    return sum(seen) / len(seen)


def _area(scores: Floats, positive: Bools) -> float:
    """AUROC; NaN when there is but one kind, so that an interval over such resamples is none."""
    found = auroc(scores, positive)
    return math.nan if found is None else found


class _Scores:
    """P(wrong) of every answer at every window, by curves that were fitted on other answers."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        right = [row.right for row in rows]
        self.fold = np.arange(len(rows)) % FOLDS
        self._fitted = [self._fit([row for row, fold in zip(rows, self.fold, strict=True) if fold != out])
                        for out in range(FOLDS)]  # fmt: skip
        self.right = np.array(right)

    @staticmethod
    def _fit(rows: Sequence[Row]) -> CalibratorArtefact:
        whole = fit([mean_of(row, 0) for row in rows], [row.right for row in rows])
        curves = fit_prefixes(Answer(_prefix_means(row), len(row.logprobs), row.right) for row in rows)
        return CalibratorArtefact(
            calibrator=whole, raw=MEAN_LOGPROB, source="", n=len(rows), n_sufficient=0, ece=0.0, reliability=(),
            prefixes=curves,
        )  # fmt: skip

    def at(self, tokens: int) -> Floats:
        """[n]: P(wrong) at this window; 0: of the whole answer."""
        return np.array([self.one(place, mean_of(row, tokens), tokens if 0 < tokens < len(row.logprobs) else 0)
                         for place, row in enumerate(self._rows)])  # fmt: skip

    def last(self, place: int, mean: float) -> float:
        """As a late alarm scores the last tokens."""
        return self.one(place, mean, 0)

    def one(self, place: int, mean: float, prefix: int) -> float:
        """P(wrong) of an answer, by a mean over `prefix` tokens; 0: over all."""
        fitted = self._fitted[self.fold[place]]
        curve = prefix_curve(fitted, prefix) if prefix else fitted.calibrator
        return 1.0 - (curve.confidence(mean) or 0.0)


def _prefix_means(row: Row) -> tuple[float, ...]:
    return tuple(mean_of(row, tokens) for tokens in PREFIX_TOKENS if tokens < len(row.logprobs))


def _once_each(rows: Sequence[Row]) -> list[Row]:
    """Every task once, of the run with the most answers at a time."""
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda each: each.concurrency):
        if row.logprobs:
            best[row.task_id] = row
    return sorted(best.values(), key=lambda each: each.task_id)


def _size(rows: Sequence[Row], wrong: Bools, tokens: int, samples: Sequence[NDArray[np.int64]]) -> Size:
    scores = np.array([-mean_of(row, tokens) for row in rows])
    whole = np.array([not 0 < tokens < len(row.logprobs) for row in rows])
    drawn = [_area(scores[sample], wrong[sample]) for sample in samples]
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    worst = np.argsort(-scores, kind="stable")[: round(SHARE * len(rows))]
    ece_whole, ece_prefix = _calibration(rows, tokens) if tokens else (None, None)
    return Size(
        tokens=tokens, auroc=_area(scores, wrong), low=float(low), high=float(high), whole_share=float(whole.mean()),
        wrong_found=float(wrong[worst].sum() / wrong.sum()), ece_whole=ece_whole, ece_prefix=ece_prefix,
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


def _delays(rows: Sequence[Row]) -> list[Delay]:
    found = []
    for concurrency in sorted({row.concurrency for row in rows}):
        own = [row for row in rows if row.concurrency == concurrency and row.times_s]
        for tokens in SIZES:
            waits = [row.times_s[min(tokens, len(row.times_s)) - 1] for row in own]
            p50, p90 = np.quantile(waits, [0.5, 0.9])
            found.append(Delay(tokens=tokens, concurrency=concurrency, p50_s=float(p50), p90_s=float(p90)))
    return found


def _growths(scores: _Scores, wrong: Bools) -> list[Growth]:
    """By the threshold that escalates the wanted share at the window's first size."""
    found = []
    for tokens, largest in ((16, 64), (16, 128), (32, 64), (32, 128)):
        sizes = [tokens]
        while sizes[-1] < largest:
            sizes.append(2 * sizes[-1])
        at = {size: scores.at(size) for size in sizes}
        threshold = float(np.quantile(at[tokens], 1 - SHARE))
        for band in BANDS:
            final, held = at[tokens].copy(), np.full(len(wrong), float(tokens))
            open_ = np.ones(len(wrong), np.bool_)
            for size, wider in itertools.pairwise(sizes):
                open_ &= (np.abs(at[size] - threshold) <= band) & (band > 0.0)
                final[open_], held[open_] = at[wider][open_], wider
            escalated = final > threshold
            found.append(
                Growth(
                    tokens=tokens, max_tokens=largest, band=band, mean_tokens=float(held.mean()),
                    escalated=float(escalated.mean()), wrong_found=float(escalated[wrong].mean()),
                    right_lost=float(escalated[~wrong].mean()),
                )
            )  # fmt: skip
    return found


def _alarms(rows: Sequence[Row], scores: _Scores, wrong: Bools) -> list[Alarm]:
    found = []
    for window in (16, 32):
        at = scores.at(window)
        committed = at <= float(np.quantile(at, 1 - SHARE))
        for threshold in ALARMS:
            rang = [
                _rings(row, window, partial(scores.last, place), threshold) if committed[place] else None
                for place, row in enumerate(rows)
            ]
            stopped = np.array([each is not None for each in rang])
            places = [each for each in rang if each is not None]
            found.append(
                Alarm(
                    window_tokens=window, threshold=threshold,
                    wrong_stopped=float(stopped[committed & wrong].mean()),
                    right_stopped=float(stopped[committed & ~wrong].mean()),
                    median_token=float(np.median(places)) if places else None,
                )
            )  # fmt: skip
    return found


def _rings(row: Row, window: int, score: Callable[[float], float], threshold: float) -> int | None:
    """The token at which the last ones are too uncertain, behind the window and before the end."""
    logprobs = np.asarray(row.logprobs)
    sums = np.concatenate([[0.0], np.cumsum(logprobs)])
    for end in range(window + ALARM_TOKENS, len(logprobs)):
        if score(float(sums[end] - sums[end - ALARM_TOKENS]) / ALARM_TOKENS) > threshold:
            return end
    return None
