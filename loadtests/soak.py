"""The soak: hundreds of streams at once for minutes, and whether the gateway's memory and descriptors stay flat.

Most clients read to the end. Some leave in the middle, some read slowly, some ask plain questions. All the while RSS
and descriptors of every gateway process and its requests in flight are sampled; a line is fitted through the samples
behind the warm-up, and its slope, with the confidence interval, decides.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import click
import httpx
import msgspec
from rich.console import Console

from loadtests import systems
from loadtests.children import Child, ChildError
from loadtests.crowd import Crowd, Tally
from loadtests.environment import describe_environment
from loadtests.loop import run
from loadtests.trend import Trend, trend_of

MAX_RSS_GROWTH_BYTES_PER_MINUTE = 1.0 * 2**20
"""Of all processes together. A leak of 1 kB a request would be several times this under the load of a soak."""
MAX_DESCRIPTOR_GROWTH_PER_MINUTE = 2.0
WARM_UP_SHARE = 0.4
"""Of the whole time: pools fill, allocators find their size. What grows for ever goes on growing behind it."""
DRAIN_S = 20.0
INFLIGHT = "router_inflight_requests"


class Reading(msgspec.Struct, frozen=True):
    """What was seen at one moment."""

    at_s: float
    rss_bytes: int
    """Of all gateway processes; pages that they share count in each."""
    descriptors: int
    inflight: int | None
    """Requests that have not left their record, by the gateway's own metric: each is a task."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a soak."""

    environment: dict[str, str]
    streams: int
    minutes: float
    tally: Tally
    rss: Trend
    descriptors: Trend
    inflight_after: int | None
    """When all clients had left: anything but 0 is a request that was forgotten."""
    failures: list[str]
    readings: list[Reading]


@click.command(epilog="Example: python -m loadtests.soak --minutes 5 --streams 200 --json soak.json")
@click.option("--minutes", type=click.FloatRange(0.05, 60), default=5.0, show_default=True)
@click.option("--streams", type=click.IntRange(1, 1000), default=200, show_default=True, help="At once.")
@click.option("--workers", type=click.IntRange(1, 16), default=1, show_default=True, help="Gateway processes.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write everything here.")
def main(minutes: float, streams: int, workers: int, json_path: Path | None) -> None:
    """Load a gateway for minutes and watch its memory, its descriptors and its tasks.

    Exit code 1 when one of them grows beyond its bound or answers were wrong.
    """
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        verdict = run(soak(minutes=minutes, streams=streams, workers=workers))
    except ChildError as exc:
        raise click.ClickException(str(exc)) from exc
    _print(console, verdict)
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(verdict), indent=1) + b"\n")
    if verdict.failures:
        raise SystemExit(1)


async def soak(*, minutes: float, streams: int, workers: int = 1) -> Verdict:
    """Start a gateway and its backend, load them, judge. Raises: ChildError: one does not start, or dies."""
    cores = os.sched_getaffinity(0)
    backend_port, port = systems.free_port(), systems.free_port()
    with tempfile.TemporaryDirectory(prefix="locum-soak-") as name:
        folder = Path(name)
        with (
            systems.fake_backend(backend_port, cores=cores, folder=folder),
            systems.locum(port, backend_port, cores=cores, folder=folder, workers=workers) as gateway,
        ):
            crowd = Crowd(f"http://127.0.0.1:{port}", streams=streams, headers=systems.LOCUM_HEADERS)
            readings, inflight_after = await _watch(gateway, crowd, port, seconds=minutes * 60)
    return judge(readings, crowd.tally, inflight_after=inflight_after, streams=streams, minutes=minutes)


async def _watch(gateway: Child, crowd: Crowd, port: int, *, seconds: float) -> tuple[list[Reading], int | None]:
    """The samples, and what was in flight when the clients had left."""
    readings: list[Reading] = []
    start_s = time.monotonic()
    pause_s = min(max(seconds / 120, 0.2), 5.0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30.0) as client:
        async with crowd:
            while time.monotonic() - start_s < seconds:
                await asyncio.sleep(pause_s)
                gateway.check_alive()
                inflight = await _inflight(client)
                size, descriptors = gateway.rss_bytes(), gateway.descriptors()
                readings.append(Reading(time.monotonic() - start_s, size, descriptors, inflight))
        deadline_s = time.monotonic() + DRAIN_S
        inflight = await _inflight(client)
        while inflight and time.monotonic() < deadline_s:
            await asyncio.sleep(0.1)
            inflight = await _inflight(client)
    return readings, inflight


async def _inflight(client: httpx.AsyncClient) -> int | None:
    """None: the gateway was too busy to tell."""
    with suppress(httpx.HTTPError):
        text = (await client.get("/metrics")).text
        values = [float(line.split()[-1]) for line in text.splitlines() if line.startswith(INFLIGHT)]
        return round(sum(values)) if values else None
    return None


def judge(
    readings: list[Reading], tally: Tally, *, inflight_after: int | None, streams: int, minutes: float
) -> Verdict:
    """Growth counts as such when the whole confidence interval of the slope is above the bound."""
    settled = readings[int(len(readings) * WARM_UP_SHARE) :]
    times_min = [reading.at_s / 60 for reading in settled]
    rss = trend_of(times_min, [float(reading.rss_bytes) for reading in settled])
    # A machine that is slow for a while has more requests in flight, each with its two sockets.
    inflight = [float(reading.inflight or 0) for reading in settled]
    descriptors = trend_of(times_min, [float(reading.descriptors) for reading in settled], beside=inflight)
    failures = []
    if rss.low > MAX_RSS_GROWTH_BYTES_PER_MINUTE:
        failures.append(f"memory grows by at least {rss.low / 2**20:.2f} MB a minute")
    if descriptors.low > MAX_DESCRIPTOR_GROWTH_PER_MINUTE:
        failures.append(f"open descriptors grow by at least {descriptors.low:.1f} a minute")
    if inflight_after:
        failures.append(f"{inflight_after} requests are still in flight {DRAIN_S:.0f} s after their clients left")
    if tally.wrong:
        failures.append(f"{tally.wrong} answers were wrong, the first one: {tally.first_wrong}")
    if not tally.finished:
        failures.append("no stream was finished")
    return Verdict(
        environment=describe_environment(os.sched_getaffinity(0), os.sched_getaffinity(0)),
        streams=streams,
        minutes=minutes,
        tally=tally,
        rss=rss,
        descriptors=descriptors,
        inflight_after=inflight_after,
        failures=failures,
        readings=readings,
    )


def _print(console: Console, verdict: Verdict) -> None:
    tally, rss, descriptors = verdict.tally, verdict.rss, verdict.descriptors
    for name in ("hardware", "python", "commit"):
        console.print(f"{name}: {verdict.environment[name]}", highlight=False)
    sizes = [reading.rss_bytes / 2**20 for reading in verdict.readings]
    lines = [
        f"{verdict.minutes:g} min, {verdict.streams} streams at once: {tally.finished:,} finished ({tally.slow:,} of "
        f"them read slowly), {tally.left:,} left in the middle, {tally.plain:,} plain answers, {tally.wrong:,} wrong",
        f"RSS: {sizes[0]:.1f} MB at first, {max(sizes):.1f} at most, {sizes[-1]:.1f} at last",
        f"RSS slope: {rss.slope / 2**20:+.3f} MB a minute (95 %: {rss.low / 2**20:+.3f} to {rss.high / 2**20:+.3f}; "
        f"bound {MAX_RSS_GROWTH_BYTES_PER_MINUTE / 2**20:g})",
        f"descriptors: {verdict.readings[-1].descriptors} at last, slope {descriptors.slope:+.2f} a minute (95 %: "
        f"{descriptors.low:+.2f} to {descriptors.high:+.2f}; bound {MAX_DESCRIPTOR_GROWTH_PER_MINUTE:g})",
        f"requests in flight when all clients had left: {verdict.inflight_after}",
    ]
    for line in (*lines, *(f"FAILED: {failure}" for failure in verdict.failures)):
        console.print(line, highlight=False)


if __name__ == "__main__":
    main()
