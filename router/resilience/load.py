"""How busy a replica is: what its engine says in `/metrics` while that is fresh, else our own requests to it."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import NamedTuple

from router.resilience.deadline import Clock


class EngineLoad(NamedTuple):
    """What an inference engine says of itself; with several engines behind one address, of all of them."""

    running: float
    waiting: float
    kv_usage: float | None
    """In [0, 1]; the fullest engine's."""


class MetricNames(NamedTuple):
    """An engine's names for the three gauges; only `running` is required."""

    running: str
    waiting: str
    kv_usage: str


ENGINES = {
    "vLLM from 0.10 (checked: 0.32)": MetricNames(
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"
    ),
    "vLLM before 0.10": MetricNames(
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:gpu_cache_usage_perc"
    ),
    "SGLang": MetricNames("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage"),
    "llama.cpp": MetricNames(
        "llamacpp:requests_processing", "llamacpp:requests_deferred", "llamacpp:kv_cache_usage_ratio"
    ),
}
"""Engines rename their metrics. The first entry whose `running` is there counts; a name that is missing is unknown."""

_RUNNING = {names.running for names in ENGINES.values()}
_WAITING = {names.waiting for names in ENGINES.values()}
_KV_USAGE = {names.kv_usage for names in ENGINES.values()}
_SAMPLE = re.compile(
    r"^(" + "|".join(sorted(map(re.escape, _RUNNING | _WAITING | _KV_USAGE))) + r")(?:\{.*\})? (\S+)", re.MULTILINE
)


def engine_load(text: str) -> EngineLoad | None:
    """Read the exposition text of `/metrics`; None when no known engine is in it."""
    running: list[float] = []
    waiting: list[float] = []
    kv_usage: list[float] = []
    for name, value in _SAMPLE.findall(text):
        try:
            number = float(value)
        except ValueError:
            continue
        if 0.0 <= number < float("inf"):  # excludes NaN
            (running if name in _RUNNING else waiting if name in _WAITING else kv_usage).append(number)
    if not running:
        return None
    return EngineLoad(sum(running), sum(waiting), max(kv_usage, default=None))


class TtftAverage:
    """Average time to first token, recent streams weighted more, which also sees the streams that still wait.

    While no stream gets its first token the value falls by half each half-life: a replica that was avoided for being
    slow is tried again.
    """

    __slots__ = ("_at_s", "_clock", "_half_life_s", "_sum_s", "_waiting", "_weight")

    def __init__(self, half_life_s: float, clock: Clock) -> None:
        self._half_life_s = half_life_s
        self._clock = clock
        self._sum_s = self._weight = 0.0
        self._at_s = clock()
        self._waiting: OrderedDict[object, float] = OrderedDict()  # finds its oldest at once, which a dict does not

    def begin(self, stream: object) -> None:
        self._waiting[stream] = self._clock()

    def end(self, stream: object, *, answered: bool) -> None:
        """The stream waits no longer: its first event has come, or it will not. Later calls have no effect."""
        began_s = self._waiting.pop(stream, None)
        if began_s is None or not answered:
            return
        now_s = self._clock()
        fading = 0.5 ** ((now_s - self._at_s) / self._half_life_s)
        self._sum_s = self._sum_s * fading + (now_s - began_s)
        self._weight = self._weight * fading + 1.0
        self._at_s = now_s

    def estimate_s(self) -> float:
        """0 before the first stream."""
        now_s = self._clock()
        average_s = self._sum_s / self._weight if self._weight else 0.0
        faded_s: float = average_s * 0.5 ** ((now_s - self._at_s) / self._half_life_s)
        oldest_s = next(iter(self._waiting.values()), now_s)
        return max(faded_s, now_s - oldest_s)
