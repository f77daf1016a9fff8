"""One measurement of one system: the load runs on our core while the system's CPU time and memory are watched."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from loadtests.children import Child
from loadtests.client import Connection, Target
from loadtests.load import Limits, LoadResult, closed_loop, open_loop
from loadtests.loop import run
from loadtests.scenarios import STREAM_CHUNKS, Call, Scenario
from loadtests.systems import MODEL
from loadtests.wrk import run_wrk

MAX_REQUESTS = 1_000_000
WARM_UP_S = 1.0
CHECK_TIMEOUT_S = 30.0


class MeasurementError(RuntimeError):
    """A system gave no usable answers."""


class System(msgspec.Struct, frozen=True):
    """One endpoint and the process whose cost is counted."""

    name: str
    target: Target
    child: Child
    model: str = MODEL
    headers: dict[str, str] = {}
    passes_bytes: bool = True
    """Whether an answer's events arrive as the backend sent them."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of one scenario against one system gave."""

    system: str
    scenario: str
    requests: int
    failed: int
    requests_per_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    cpu_share: float
    """Of one core, used by the system; below about 0.9 in a closed loop the load was the limit, not the system."""
    cpu_s_per_request: float
    rss_bytes: int
    send_lag_p99_s: float | None = None
    """Open loop: how late the generator was."""
    routes: dict[str, int] = {}


def check(system: System, plain: Sequence[Call], stream: Sequence[Call]) -> None:
    """One plain answer and one stream must come through in full.

    Raises:
        MeasurementError: they do not.
    """

    async def ask() -> None:
        connection = Connection(system.target, timeout_s=CHECK_TIMEOUT_S, headers=system.headers)
        try:
            least = STREAM_CHUNKS + 3 if system.passes_bytes else STREAM_CHUNKS
            for call, events in ((plain[0], 0), (stream[0], least)):
                done = await connection.exchange(call)
                if done.failure is not None or done.events < events:
                    raise MeasurementError(
                        f"{system.name}: a {call.kind} request gave {done.failure or 'an answer'} with {done.events} "
                        f"events, fewer than {events}; its log ends with:\n{system.child.log_tail()}"
                    )
        finally:
            connection.close()

    run(ask())


def warm_up(system: System, calls: Sequence[Call]) -> None:
    """Fill caches and connection pools; nothing is counted."""
    limits = Limits(duration_s=WARM_UP_S, max_requests=MAX_REQUESTS)
    run(closed_loop(system.target, calls, connections=8, limits=limits, headers=system.headers))


def measure(system: System, scenario: Scenario, calls: Sequence[Call], *, seconds: float, folder: Path) -> Sample:
    """Raises: MeasurementError, WrkError, ChildError."""
    system.child.check_alive()
    cpu_before_s, start_s = system.child.cpu_s(), time.monotonic()
    if scenario.rate_per_s is not None or scenario.name == "mixed":
        sample = _own_generator(system, scenario, calls, seconds)
    else:
        done = run_wrk(
            system.target,
            calls,
            connections=scenario.connections,
            seconds=seconds,
            folder=folder,
            headers=system.headers,
        )
        sample = Sample(
            system=system.name,
            scenario=scenario.name,
            requests=done.requests,
            failed=done.failed,
            requests_per_s=done.requests_per_s,
            p50_s=done.p50_us / 1e6,
            p90_s=done.p90_us / 1e6,
            p99_s=done.p99_us / 1e6,
            cpu_share=0.0,
            cpu_s_per_request=0.0,
            rss_bytes=0,
        )
    elapsed_s, cpu_s = time.monotonic() - start_s, system.child.cpu_s() - cpu_before_s
    system.child.check_alive()
    if not sample.requests and system.passes_bytes:
        raise MeasurementError(f"{system.name}: no answer in {scenario.name}:\n{system.child.log_tail()}")
    return msgspec.structs.replace(
        sample,
        cpu_share=cpu_s / elapsed_s,
        cpu_s_per_request=cpu_s / sample.requests if sample.requests else 0.0,
        rss_bytes=system.child.rss_bytes(),
    )


def _own_generator(system: System, scenario: Scenario, calls: Sequence[Call], seconds: float) -> Sample:
    limits = Limits(duration_s=seconds, max_requests=MAX_REQUESTS)
    if scenario.rate_per_s is not None:
        rate_per_s = scenario.rate_per_s
        result = run(open_loop(system.target, calls, rate_per_s=rate_per_s, limits=limits, headers=system.headers))
    else:
        connections = scenario.connections
        result = run(closed_loop(system.target, calls, connections=connections, limits=limits, headers=system.headers))
    return _sample(system, scenario, result)


def _sample(system: System, scenario: Scenario, result: LoadResult) -> Sample:
    return Sample(
        system=system.name,
        scenario=scenario.name,
        requests=result.requests,
        failed=result.failed,
        requests_per_s=result.requests_per_s,
        p50_s=result.latency.p50_s,
        p90_s=result.latency.p90_s,
        p99_s=result.latency.p99_s,
        cpu_share=0.0,
        cpu_s_per_request=0.0,
        rss_bytes=0,
        send_lag_p99_s=result.send_lag.p99_s if scenario.rate_per_s is not None else None,
        routes=result.routes,
    )
