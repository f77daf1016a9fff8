"""How good a routing score is. All figures are computed for many weightings of the rows at once: [B, n].

Two modes. *RouteLLM's*: 11 operating points, at the edges of the score's deciles. *Exact*: one point a query, where
rows of equal score are escalated in random order, in expectation: within such a block the curve is a straight line.
Words: the *gap* is quality(strong) - quality(weak); a point has *recovered* the share of it that routing wins back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.routing.outcomes import Bools, Floats, Ints

DECILES = 10
_EDGES = np.linspace(0, 1, DECILES + 1)[:-1]
ECE_BINS = 10
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Ranking:
    """Rows by falling score, in blocks of equal scores."""

    order: Ints
    """[n]"""
    starts: Ints
    """[m], where in `order` each block begins."""
    values: Floats
    """[m], falling: the score of each block."""

    def sums(self, weighted: Floats) -> Floats:
        """[B, n] over rows -> [B, m] over blocks."""
        ordered = weighted[:, self.order]
        if len(self.starts) == len(self.order):
            return ordered
        return np.asarray(np.add.reduceat(ordered, self.starts, axis=1))


def ranking(score: Floats) -> Ranking:
    """Raises: ValueError: a score is not finite."""
    if not np.isfinite(score).all():
        raise ValueError("a score is not finite")
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    starts = np.flatnonzero(np.concatenate([[True], falling[1:] != falling[:-1]]))
    return Ranking(order, starts, falling[starts])


@dataclass(frozen=True, eq=False)
class Curve:
    """Quality over teacher share, through (0, weak) and (1, strong): B polylines of m + 1 points."""

    shares: Floats
    """[B, m + 1], rising from 0 to 1."""
    gains: Floats
    """[B, m + 1], quality above all-weak, in the outcomes' unit."""

    @property
    def gap(self) -> Floats:
        """[B]"""
        return self.gains[:, -1]

    def at(self, share: float, cumulated: Floats | None = None) -> Floats:
        """[B], the gain (or what else was cumulated along the ranking) when `share` of the calls is strong."""
        values = self.gains if cumulated is None else cumulated
        right = np.maximum(np.argmax(self.shares >= share - _ROUNDING, axis=1), 1)
        return _between(self.shares, values, right, np.full(len(values), share))

    def recovered(self, share: float) -> Floats:
        """[B], the part of the gap that is recovered; NaN without a gap."""
        return ratio(self.at(share), self.gap)

    def apgr(self) -> Floats:
        """[B], average of the recovered gap over all shares: 0.5 at random. NaN without a gap."""
        area = (np.diff(self.shares, axis=1) * (self.gains[:, 1:] + self.gains[:, :-1])).sum(axis=1) / 2
        return ratio(area, self.gap)

    def cpt(self, part: float) -> Floats:
        """[B], percent of strong calls at which `part` of the gap is first recovered. NaN without a gap."""
        target = part * self.gap
        right = np.maximum(np.argmax(self.gains >= (target - _ROUNDING)[:, None], axis=1), 1)
        found = 100 * np.clip(_between(self.gains, self.shares, right, target), 0.0, 1.0)
        return np.where(self.gap > 0, found, np.nan)


def curve(ranked: Ranking, weights: Floats, advantage: Floats) -> Curve:
    """The exact curve.

    Args:
        weights: [B, n], how often each row counts.
        advantage: [n], strong - weak.
    """
    total = weights.sum(axis=1, keepdims=True)
    return Curve(
        cumulated(ranked.sums(weights)) / total,
        cumulated(ranked.sums(weights * advantage)) / total,
    )


def cumulated(blocks: Floats) -> Floats:
    """[B, m] -> [B, m + 1], beginning at 0."""
    out = np.zeros((blocks.shape[0], blocks.shape[1] + 1))
    np.cumsum(blocks, axis=1, out=out[:, 1:])
    return out


def decile_points(ranked: Ranking, exact: Curve, weights: Floats) -> Curve:
    """RouteLLM's operating points, as a curve of 11: the edges of `qcut(score, 10)`; a row whose score reaches the edge
    is a strong call, and at the highest edge none is.

    The points of the exact curve at ends of blocks, so this needs no second pass over the rows.

    Source: Ong et al. 2024, arXiv:2406.18665, sec. 4, and the benchmarks of its repository.
    """
    n = weights.sum(axis=1)
    shares = np.zeros((len(n), DECILES + 1))
    gains = np.zeros_like(shares)
    below = 1 - exact.shares[:, ::-1]  # rising: the share of rows with a lower score than each block's, lowest first
    for b in range(len(n)):
        calls = _blocks_called(np.rint(below[b] * n[b]), round(float(n[b])), ranked.values)
        shares[b, 1:] = exact.shares[b, calls]
        gains[b, 1:] = exact.gains[b, calls]
    return Curve(shares, gains)


def _blocks_called(rows_below: Floats, n: int, values: Floats) -> Ints:
    """[DECILES], rising: how many blocks are strong calls at the edges, from the second highest down to the lowest.

    Args:
        rows_below: [m + 1], rows with a score below that of block i, counted from the lowest block; last is n.
        values: [m], falling.
    """
    rising = values[::-1]
    place = (n - 1) * _EDGES
    low = np.searchsorted(rows_below, np.floor(place), side="right") - 1
    high = np.searchsorted(rows_below, np.minimum(np.floor(place) + 1, n - 1), side="right") - 1
    part = place - np.floor(place)
    step = rising[high] - rising[low]
    edge = np.where(part < 0.5, rising[low] + step * part, rising[high] - step * (1 - part))  # as numpy's quantile does
    block = np.where(rising[low] >= edge, low, high)
    return np.asarray(len(values) - block[::-1], dtype=np.int64)


def interpolated_cpt(points: Curve, part: float) -> Floats:
    """[B], percent, by `np.interp` over the points as they come, as RouteLLM does: where quality falls between two of
    them, whatever `np.interp` makes of that. NaN without a gap."""
    found = [
        100 * float(np.interp(part * gap, gains, shares)) if gap > 0 else np.nan
        for gap, gains, shares in zip(points.gap, points.gains, points.shares, strict=True)
    ]
    return np.array(found)


def auroc(ranked: Ranking, weights: Floats, positive: Bools) -> Floats:
    """[B], P(a positive row scores higher than a negative one), ties count half; NaN when one kind is missing."""
    positives = ranked.sums(weights * positive)
    negatives = ranked.sums(weights * ~positive)
    lower = negatives.sum(axis=1, keepdims=True) - np.cumsum(negatives, axis=1)
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return ratio((positives * (lower + negatives / 2)).sum(axis=1), pairs)


def calibration_error(score: Floats, weights: Floats, outcome: Floats) -> Floats:
    """[B], mean gap between stated and observed probability over ten bins of equal width.

    Never 0 for a finite sample, and larger on a resample than on the rows themselves. Source: Guo et al. 2017, eq. 3.
    """
    bins = np.minimum((np.clip(score, 0.0, 1.0) * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    member = (bins[:, None] == np.arange(ECE_BINS)).astype(np.float64)
    differences = weights @ (member * (score - outcome)[:, None])
    return np.asarray(np.abs(differences).sum(axis=1) / weights.sum(axis=1))


def _between(xs: Floats, ys: Floats, right: Ints, x: Floats) -> Floats:
    """[B], `ys` where `xs` is x, on the line from point right - 1 to point right."""
    at = np.arange(len(right))
    x0, x1, y0, y1 = xs[at, right - 1], xs[at, right], ys[at, right - 1], ys[at, right]
    width = x1 - x0
    part = np.divide(x - x0, width, out=np.ones_like(width), where=width != 0)
    return np.asarray(y0 + part * (y1 - y0))


def ratio(above: Floats, below: Floats) -> Floats:
    """NaN where `below` is not positive."""
    return np.asarray(np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0))
