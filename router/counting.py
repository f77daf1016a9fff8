"""Prometheus' values for the hot path: found once, and increased without the checks that each call of its own makes.

`Counter.inc` and `Histogram.observe` look whether the metric has all its labels and the amount a legal sign; that is
most of their time. Here a child is asked for once, and what is added is ours.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Self

from prometheus_client import Counter, Gauge, Histogram

Add = Callable[[float], None]
FLUSHED_GAPS = 256


def adder(child: Counter | Gauge) -> Add:
    """Adds to one counter or gauge; a counter is given nothing negative."""
    add: Add = child._value.inc
    return add


def adders(metric: Counter | Gauge) -> Callable[..., Add]:
    """Label values to the adder of their child; as many are kept as there are label sets."""
    return cache(lambda *labels: adder(metric.labels(*labels)))


class Observer:
    """Observes amounts of one histogram."""

    __slots__ = ("add_bucket", "add_sum", "bounds")

    def __init__(self, child: Histogram) -> None:
        self.bounds: list[float] = child._upper_bounds
        self.add_sum: Add = child._sum.inc
        self.add_bucket: list[Add] = [bucket.inc for bucket in child._buckets]

    def observe(self, amount: float) -> None:
        self.add_sum(amount)
        self.add_bucket[bisect_left(self.bounds, amount)](1)


def observers(histogram: Histogram) -> Callable[..., Observer]:
    """Label values to the observer of their child."""
    return cache(lambda *labels: Observer(histogram.labels(*labels)))


class Gaps:
    """The times between the events of one stream: gathered, and observed at the end of its block or some hundred at
    once. An event comes far more often than anybody reads metrics."""

    __slots__ = ("_gaps", "_observer")

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._gaps: list[float] = []

    def add(self, gap_s: float) -> None:
        self._gaps.append(gap_s)
        if len(self._gaps) >= FLUSHED_GAPS:
            self._flush()

    def _flush(self) -> None:
        gaps, self._gaps = sorted(self._gaps), []
        observer, done = self._observer, 0
        if gaps:
            observer.add_sum(sum(gaps))
        for add, bound in zip(observer.add_bucket, observer.bounds, strict=True):
            end = bisect_right(gaps, bound, lo=done)
            if end > done:
                add(end - done)
                done = end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
