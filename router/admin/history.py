"""What the counters said before, so that a window of them can be shown without a Prometheus beside the gateway.

Kept in memory, thinned with age and gone with the process: Prometheus is where metrics are kept. What is read are the
metrics of all workers together, so that every worker gives the same answer.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from threading import Lock
from typing import NamedTuple

from prometheus_client import Metric

INTERVAL_S = 15.0
COARSE_S = 300.0
FINE_SAMPLES = 241
"""An hour of them."""
COARSE_SAMPLES = 289
"""A day of them."""
MAX_KEYS = 5_000
"""Label sets are closed, so this is never met; it bounds the memory should one not be."""

WATCHED = frozenset(
    {
        "router_requests", "router_request_duration_seconds", "router_tokens", "router_cost_usd",
        "router_counterfactual_cost_usd", "router_unpriced_requests", "router_escalations", "router_fallbacks",
        "router_policy_errors", "router_spool_dropped", "router_spool_lag_records", "router_admission_refusals",
        "router_inflight_requests", "router_backend_up", "router_embedding_cost_usd", "router_quality_moments",
        "router_feedback", "router_shadow", "router_shadow_cost_usd", "router_judge_cost_usd", "router_draft_cost_usd",
        "router_student_machine_usd", "router_drift_score", "router_drift_alarm", "router_calibration_error",
        "router_regression_score",
    }
)  # fmt: skip
"""Families of metrics that the console shows."""

Labels = tuple[tuple[str, str], ...]


class Key(NamedTuple):
    """One time series."""

    name: str
    """Of the sample: with `_total`, `_bucket`, ..."""
    labels: Labels


class Values:
    """Numbers by time series."""

    def __init__(self, values: Mapping[Key, float]) -> None:
        self._values = values

    def total(self, name: str, **labels: str) -> float:
        """Sum over all series of a name with these labels."""
        wanted = set(labels.items())
        return sum(value for key, value in self._named(name) if wanted <= set(key.labels))

    def by(self, name: str, *labels: str, zeros: bool = False) -> dict[tuple[str, ...], float]:
        """Sums by the values of some labels, largest first; without those that are 0, unless these are wanted."""
        sums: dict[tuple[str, ...], float] = {}
        for key, value in self._named(name):
            given = dict(key.labels)
            group = tuple(given.get(label, "") for label in labels)
            sums[group] = sums.get(group, 0.0) + value
        return dict(sorted(((group, value) for group, value in sums.items() if value or zeros), key=lambda e: -e[1]))

    def _named(self, name: str) -> Iterator[tuple[Key, float]]:
        return ((key, value) for key, value in self._values.items() if key.name == name)


class _Sample(NamedTuple):
    at_s: float
    numbers: array[float]
    """In the order in which the keys were met; series that came later are missing, and were 0."""


class Window(NamedTuple):
    """What was counted within a time."""

    counted: Values
    now: Values
    """What gauges say at its end."""
    start_s: float | None
    """Unix time at which it begins; None: with the gateway."""
    end_s: float
    steps: list[tuple[float, Values]]
    """Its parts, oldest first, each with its end."""


class MetricHistory:
    """Samples of one process; `run` takes them."""

    def __init__(self, collect: Callable[[], Iterable[Metric]], *, clock: Callable[[], float] = time.time) -> None:
        self._collect = collect
        self._clock = clock
        self._lock = Lock()
        """Samples are taken on several threads."""
        self._keys: dict[Key, int] = {}
        self._fine: deque[_Sample] = deque(maxlen=FINE_SAMPLES)
        self._coarse: deque[_Sample] = deque(maxlen=COARSE_SAMPLES)

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self.take)
            await asyncio.sleep(INTERVAL_S)

    def take(self) -> None:
        """Take a sample."""
        sample = self._sample()
        self._fine.append(sample)
        if not self._coarse or sample.at_s - self._coarse[-1].at_s >= COARSE_S:
            self._coarse.append(sample)

    def window(self, length_s: float | None, *, steps: int) -> Window:
        """The last `length_s`, as far as this process remembers them; None: all that the gateway ever counted."""
        now = self._sample()
        samples = [*self._remembered(), now]
        first = samples[0]
        if length_s is not None:
            first = next((each for each in reversed(samples) if each.at_s <= now.at_s - length_s), first)
        return Window(
            counted=self._between(None if length_s is None else first, now),
            now=self._between(None, now),
            start_s=None if length_s is None else first.at_s,
            end_s=now.at_s,
            steps=self._steps([each for each in samples if each.at_s >= first.at_s], steps),
        )

    def _remembered(self) -> list[_Sample]:
        """Coarse samples as far back as there are, then the fine ones."""
        fine = list(self._fine)
        oldest_s = fine[0].at_s if fine else float("inf")
        return [*(sample for sample in list(self._coarse) if sample.at_s < oldest_s), *fine]

    def _steps(self, samples: list[_Sample], count: int) -> list[tuple[float, Values]]:
        """About equally long, each from one sample to another."""
        first_s, last_s = samples[0].at_s, samples[-1].at_s
        if last_s <= first_s:
            return []
        chosen, step_s = [samples[0]], (last_s - first_s) / count
        for sample in samples[1:-1]:
            if sample.at_s - chosen[-1].at_s >= step_s and last_s - sample.at_s >= step_s / 2:
                chosen.append(sample)
        chosen.append(samples[-1])
        return [(after.at_s, self._between(before, after)) for before, after in pairwise(chosen)]

    def _between(self, before: _Sample | None, after: _Sample) -> Values:
        """A counter never sinks; where it seems to, a worker's file was between two places for a moment."""
        if before is None:
            return Values({key: after.numbers[at] for key, at in self._places(after)})
        earlier = before.numbers
        return Values(
            {
                key: max(0.0, after.numbers[at] - (earlier[at] if at < len(earlier) else 0.0))
                for key, at in self._places(after)
            }
        )

    def _places(self, sample: _Sample) -> Iterator[tuple[Key, int]]:
        return ((key, at) for key, at in list(self._keys.items()) if at < len(sample.numbers))

    def _sample(self) -> _Sample:
        with self._lock:
            return self._sampled()

    def _sampled(self) -> _Sample:
        at_s = self._clock()
        found: dict[int, float] = {}
        for family in self._collect():
            if family.name not in WATCHED:
                continue
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                key = Key(sample.name, tuple(sorted(sample.labels.items())))
                if len(self._keys) < MAX_KEYS:
                    self._keys.setdefault(key, len(self._keys))
                if key in self._keys:
                    found[self._keys[key]] = sample.value
        return _Sample(at_s, array("d", (found.get(at, 0.0) for at in range(len(self._keys)))))
