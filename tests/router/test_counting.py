"""Counting past the checks of the metrics' library: the exposition must be what its own calls would have made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from router.counting import FLUSHED_GAPS, Gaps, Observer, adder, adders, observers

BOUNDS = (0.1, 0.5, 1.0)
AMOUNTS = (0.0, 0.05, 0.1, 0.1000001, 0.5, 0.7, 1.0, 1.5, 40.0)


class Both:
    """The same metrics twice: counted by us, and by the library."""

    def __init__(self) -> None:
        self.ours, self.theirs = CollectorRegistry(), CollectorRegistry()

    def histograms(self) -> Iterator[Histogram]:
        for registry in (self.ours, self.theirs):
            yield Histogram("h", "text", ("route",), buckets=BOUNDS, registry=registry)

    def counters(self) -> Iterator[Counter]:
        for registry in (self.ours, self.theirs):
            yield Counter("c", "text", ("route",), registry=registry)

    @property
    def samples(self) -> tuple[list[str], list[str]]:
        ours, theirs = (
            [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
            for registry in (self.ours, self.theirs)
        )
        return ours, theirs


def test_adder_counts_like_the_library() -> None:
    both = Both()
    ours, theirs = both.counters()
    add = adders(ours)
    for amount in (1, 2.5):
        add("student")(amount)
        theirs.labels("student").inc(amount)
    assert add("student") is add("student")
    assert both.samples[0] == both.samples[1]


def test_adder_goes_down_as_well_when_it_is_a_gauges() -> None:
    gauge = Gauge("g", "text", registry=CollectorRegistry())
    add = adder(gauge)
    add(3)
    add(-1)
    assert gauge._value.get() == 2


def test_observer_observes_like_the_library() -> None:
    both = Both()
    ours, theirs = both.histograms()
    observe = observers(ours)("student").observe
    for amount in AMOUNTS:
        observe(amount)
        theirs.labels("student").observe(amount)
    assert both.samples[0] == both.samples[1]


@pytest.mark.parametrize("repeats", [0, 1, FLUSHED_GAPS])
def test_gaps_are_observed_like_single_ones_when_their_stream_ends(repeats: int) -> None:
    both = Both()
    ours, theirs = both.histograms()
    ours.labels("student")
    theirs.labels("student")
    with Gaps(Observer(ours.labels("student"))) as gaps:
        for amount in AMOUNTS * repeats:
            gaps.add(amount)
            theirs.labels("student").observe(amount)
    assert _without_sum(both.samples[0]) == _without_sum(both.samples[1])
    assert _sum(both.samples[0]) == pytest.approx(_sum(both.samples[1]))


def _sum(lines: list[str]) -> float:
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith("h_sum"))


def _without_sum(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("h_sum")]
