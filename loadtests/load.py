"""The load generator: a closed loop of connections, or an open loop at a constant rate that cannot be slowed down.

In the open loop a request's latency counts from the time at which it was *due*, so a server that stalls is charged for
all the requests that it kept from being sent (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

import msgspec

from loadtests.client import Connection, Exchange, Target
from loadtests.scenarios import Call

MAX_OPEN_CONNECTIONS = 1_024
REQUEST_TIMEOUT_S = 30.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """A run ends at whichever comes first."""

    duration_s: float
    max_requests: int


class Percentiles(msgspec.Struct, frozen=True):
    """Seconds; NaN when there is no value."""

    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one run."""

    requests: int
    failed: int
    duration_s: float
    requests_per_s: float
    """Answers that arrived in full, a second."""
    latency: Percentiles
    """Open loop: from the time the request was due."""
    first_body: Percentiles
    """Until the first byte of the body."""
    send_lag: Percentiles
    """Open loop: how late the generator itself was; large values mean that it measured itself."""
    events: int
    body_bytes: int
    failures: dict[str, int]
    routes: dict[str, int]
    """Answers by `x-router-route` and `x-router-reason`; empty when the target is no gateway."""


class _Tally:
    """Collects exchanges; `due_s` is the time from which an exchange's latency counts."""

    def __init__(self) -> None:
        self.exchanges: list[tuple[float, Exchange]] = []

    def result(self, duration_s: float) -> LoadResult:
        good = [(due_s, done) for due_s, done in self.exchanges if done.failure is None]
        failures = Counter(done.failure for _, done in self.exchanges if done.failure is not None)
        routes = Counter(f"{done.route} {done.reason}" for _, done in good if done.route)
        return LoadResult(
            requests=len(self.exchanges),
            failed=len(self.exchanges) - len(good),
            duration_s=duration_s,
            requests_per_s=len(good) / duration_s if duration_s > 0 else 0.0,
            latency=percentiles([done.ended_s - due_s for due_s, done in good]),
            first_body=percentiles([done.first_body_s - due_s for due_s, done in good if done.body_bytes]),
            send_lag=percentiles([done.started_s - due_s for due_s, done in self.exchanges]),
            events=sum(done.events for _, done in good),
            body_bytes=sum(done.body_bytes for _, done in good),
            failures=dict(failures),
            routes=dict(routes),
        )


async def closed_loop(
    target: Target,
    calls: Sequence[Call],
    *,
    connections: int,
    limits: Limits,
    api_key: str | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> LoadResult:
    """Each connection sends its next request when the answer to the last one is complete."""
    tally = _Tally()
    feed = itertools.islice(itertools.cycle(calls), limits.max_requests)
    start_s = time.perf_counter()
    deadline_s = start_s + limits.duration_s

    async def work() -> None:
        connection = Connection(target, timeout_s=REQUEST_TIMEOUT_S, api_key=api_key, headers=headers)
        try:
            for call in feed:
                exchange = await connection.exchange(call)
                tally.exchanges.append((exchange.started_s, exchange))
                if exchange.ended_s >= deadline_s:
                    break
                if exchange.error == "connect":
                    await asyncio.sleep(0.01)  # nobody listens: do not spin
        finally:
            connection.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    return tally.result(time.perf_counter() - start_s)


async def open_loop(
    target: Target,
    calls: Sequence[Call],
    *,
    rate_per_s: float,
    limits: Limits,
    api_key: str | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> LoadResult:
    """Requests start at a constant rate, whatever the server does; as many connections as that takes."""
    tally = _Tally()
    idle: list[Connection] = []
    running: set[asyncio.Task[None]] = set()
    count = min(limits.max_requests, max(1, math.ceil(limits.duration_s * rate_per_s)))
    feed = itertools.cycle(calls)
    connect = partial(Connection, target, timeout_s=REQUEST_TIMEOUT_S, api_key=api_key, headers=headers)

    async def work(due_s: float, call: Call) -> None:
        connection = idle.pop() if idle else connect()
        tally.exchanges.append((due_s, await connection.exchange(call)))
        idle.append(connection)

    start_s = time.perf_counter()
    with _Pacer(rate_per_s, count) as pacer:
        async for due_s in pacer:
            if len(running) >= MAX_OPEN_CONNECTIONS:
                tally.exchanges.append((due_s, Exchange(due_s, ended_s=due_s, error="generator_full")))
                continue
            task = asyncio.get_running_loop().create_task(work(due_s, next(feed)))
            running.add(task)
            task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    for connection in idle:
        connection.close()
    return tally.result(time.perf_counter() - start_s)


class _Pacer:
    """Yields the time at which each request is due, at that time.

    Event-loop timers are a millisecond coarse, which would be most of the latency to measure: a thread sleeps on the
    kernel's fine timer and wakes the loop through a pipe.
    """

    def __init__(self, rate_per_s: float, count: int) -> None:
        self._interval_s = 1.0 / rate_per_s
        self._count = count
        self._stopped = threading.Event()
        self._due: asyncio.Queue[float | None] = asyncio.Queue()
        self._thread = threading.Thread(target=self._run, name="pacer", daemon=True)

    def __enter__(self) -> _Pacer:
        self._reader, self._writer = os.pipe()
        self._start_s = time.perf_counter() + self._interval_s
        self._sent = 0
        asyncio.get_running_loop().add_reader(self._reader, self._tick)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        self._thread.join()
        asyncio.get_running_loop().remove_reader(self._reader)
        os.close(self._reader)
        os.close(self._writer)

    def __aiter__(self) -> _Pacer:
        return self

    async def __anext__(self) -> float:
        due_s = await self._due.get()
        if due_s is None:
            raise StopAsyncIteration
        return due_s

    def _tick(self) -> None:
        for _ in os.read(self._reader, 4096):
            self._due.put_nowait(self._start_s + self._sent * self._interval_s)
            self._sent += 1
        if self._sent == self._count:
            self._due.put_nowait(None)

    def _run(self) -> None:
        for index in range(self._count):
            wait_s = self._start_s + index * self._interval_s - time.perf_counter()
            if wait_s > 0:
                time.sleep(wait_s)
            if self._stopped.is_set():
                return
            os.write(self._writer, b".")


def percentiles(values_s: Sequence[float]) -> Percentiles:
    """Nearest-rank percentiles."""
    ordered = sorted(values_s)
    if not ordered:
        return Percentiles(math.nan, math.nan, math.nan, math.nan)

    def rank(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return Percentiles(rank(0.5), rank(0.9), rank(0.99), ordered[-1])
