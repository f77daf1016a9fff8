"""The figures of one score, on the rows as they are and on resamples of them, with intervals.

Whole groups of near-duplicates are resampled, the same ones for every score: so the difference of two scores on one
resample is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from trainer.routing import measures
from trainer.routing.outcomes import Floats, Ints, Outcomes

RESAMPLES = 1_000
CONFIDENCE = 0.95
CELLS = 1_000_000
"""Of the matrices that are in memory at once."""
RIGHT = 0.5
"""An outcome below it counts as wrong."""
MAX_UNDEFINED = 0.025
"""Of the resamples. With more of them without a gap, its ratios have no interval."""
GRID = np.linspace(0.0, 1.0, 101)


class Estimate(msgspec.Struct, frozen=True):
    """A figure with its 95 % bootstrap interval; None where it is not defined."""

    estimate: float | None
    low: float | None
    high: float | None


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How good one score is. Percent where the name begins with `cpt`, as published; points are percentage points."""

    apgr: Estimate
    """RouteLLM's: area under the recovered gap over 11 operating points, 0.5 at random."""
    cpt50: Estimate
    cpt80: Estimate
    """RouteLLM's: percent of strong calls that recover 80 % of the gap."""
    apgr_exact: Estimate
    cpt50_exact: Estimate
    cpt80_exact: Estimate
    """The least percent of strong calls that does, query by query."""
    accuracy: Estimate
    """At the share asked for, as the next two."""
    recovered: Estimate
    """Of the gap, 1 = all."""
    points_left: Estimate
    """Below all-strong."""
    auroc_weak_wrong: Estimate
    auroc_strong_better: Estimate
    ece: Estimate | None = None
    """Of the score as P(strong better); None for scores that are no probabilities."""
    cost_router: Estimate | None = None
    """Relative to all-strong, at the share: an escalated query costs the strong call only."""
    cost_cascade: Estimate | None = None
    """As above: an escalated query costs both calls."""


@dataclass(frozen=True)
class Resamples:
    """How often each row counts: as it is, then in each resample. Drawn anew whenever they are asked for, always the
    same ones: together they would be large."""

    groups: Ints
    """[n], near-duplicates of one number."""
    seed: int
    count: int = RESAMPLES

    def over(self, work: Callable[[Floats], Floats]) -> Floats:
        """`work` maps weights [b, n] to [b, ...]; all of its results, [1 + count, ...], the rows as they are first."""
        return np.concatenate([work(part) for part in self._chunks()])

    def _chunks(self) -> Iterator[Floats]:
        n, n_groups = len(self.groups), int(self.groups.max()) + 1
        generator = np.random.default_rng(self.seed)
        size = max(1, CELLS // n)
        yield np.ones((1, n))
        for start in range(0, self.count, size):
            part = np.empty((min(size, self.count - start), n))
            for b in range(len(part)):
                drawn = np.bincount(generator.integers(0, n_groups, n_groups), minlength=n_groups)
                part[b] = drawn[self.groups]
            yield part


Samples = Mapping[str, Floats]
"""Figure -> [1 + B]: on the rows themselves, then on each resample."""


def samples(
    rows: Outcomes, score: Floats, resamples: Resamples, share: float, *, probability: bool
) -> dict[str, Floats]:
    """All figures of one score on the rows and on the resamples."""
    ranked = measures.ranking(score)
    names: list[str] = []

    def work(weights: Floats) -> Floats:
        found = _figures(rows, score, ranked, weights, share, probability)
        names[:] = list(found)
        return np.column_stack(list(found.values()))

    table = resamples.over(work)
    return {name: table[:, column] for column, name in enumerate(names)}


def _figures(
    rows: Outcomes, score: Floats, ranked: measures.Ranking, weights: Floats, share: float, probability: bool
) -> dict[str, Floats]:
    exact = measures.curve(ranked, weights, rows.advantage)
    points = measures.decile_points(ranked, exact, weights)
    weak = weights @ rows.weak / weights.sum(axis=1)
    gain = exact.at(share)
    found = {
        "apgr": points.apgr(),
        "cpt50": measures.interpolated_cpt(points, 0.5),
        "cpt80": measures.interpolated_cpt(points, 0.8),
        "apgr_exact": exact.apgr(),
        "cpt50_exact": exact.cpt(0.5),
        "cpt80_exact": exact.cpt(0.8),
        "accuracy": weak + gain,
        "recovered": exact.recovered(share),
        "points_left": 100 * (exact.gap - gain),
        "auroc_weak_wrong": measures.auroc(ranked, weights, rows.weak < RIGHT),
        "auroc_strong_better": measures.auroc(ranked, weights, rows.advantage > 0),
    }
    if probability:
        found["ece"] = measures.calibration_error(score, weights, (rows.advantage > 0).astype(np.float64))
    if rows.cost_weak is not None and rows.cost_strong is not None:
        found |= _costs(rows.cost_weak, rows.cost_strong, ranked, exact, weights, share)
    return found


def _costs(
    weak: Floats, strong: Floats, ranked: measures.Ranking, exact: measures.Curve, weights: Floats, share: float
) -> dict[str, Floats]:
    all_weak, all_strong = weights @ weak, weights @ strong
    strong_calls = exact.at(share, measures.cumulated(ranked.sums(weights * strong)))
    weak_spared = exact.at(share, measures.cumulated(ranked.sums(weights * weak)))
    return {
        "cost_router": measures.ratio(all_weak - weak_spared + strong_calls, all_strong),
        "cost_cascade": measures.ratio(all_weak + strong_calls, all_strong),
    }


def summary(of: Samples) -> Figures:
    return Figures(**{name: interval(values) for name, values in of.items()})


def differences(one: Samples, other: Samples) -> dict[str, Estimate]:
    """`one` minus `other`, paired by resample, of the figures that both have."""
    return {name: interval(one[name] - other[name]) for name in one if name in other}


def interval(values: Floats) -> Estimate:
    """Percentile interval from [1 + B] values, the first on the rows themselves."""
    estimate, drawn = values[0], values[1:]
    if np.isnan(estimate):
        return Estimate(None, None, None)
    known = drawn[~np.isnan(drawn)]
    if len(known) < (1 - MAX_UNDEFINED) * len(drawn):
        return Estimate(float(estimate), None, None)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return Estimate(float(estimate), float(low), float(high))


def mean_interval(values: Floats, resamples: Resamples) -> Estimate:
    """Of a plain mean over the rows."""
    return interval(resamples.over(lambda weights: weights @ values / weights.sum(axis=1)))


@dataclass(frozen=True, eq=False)
class Band:
    """Quality over teacher share, with its interval at each share of GRID: [101] each."""

    accuracy: Floats
    low: Floats
    high: Floats


def band(rows: Outcomes, score: Floats, resamples: Resamples) -> Band:
    ranked = measures.ranking(score)

    def work(weights: Floats) -> Floats:
        exact = measures.curve(ranked, weights, rows.advantage)
        weak = weights @ rows.weak / weights.sum(axis=1)
        return np.stack(
            [base + np.interp(GRID, x, y) for base, x, y in zip(weak, exact.shares, exact.gains, strict=True)]
        )

    drawn = resamples.over(work)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn[1:], [tail, 1 - tail], axis=0)
    return Band(drawn[0], low, high)


def accuracy_curve(rows: Outcomes, score: Floats) -> Floats:
    """[101], quality at each share of GRID, rows of equal score in random order."""
    exact = measures.curve(measures.ranking(score), np.ones((1, len(rows))), rows.advantage)
    return np.asarray(rows.weak.mean() + np.interp(GRID, exact.shares[0], exact.gains[0]))
