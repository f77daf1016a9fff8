"""`locum loadtest`: load on an endpoint of this machine."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from typing import Any

import click
import msgspec

from loadtests.client import Target, TargetError
from loadtests.load import Limits, LoadResult, closed_loop, open_loop
from loadtests.loop import run
from loadtests.scenarios import SCENARIOS, UNIQUE_CALLS, Scenario, calls

MAX_SECONDS = 600.0
MAX_REQUESTS = 1_000_000
MAX_CONNECTIONS = 1_024
MAX_RATE_PER_S = 5_000.0

_SCENARIO_HELP = "; ".join(f"{scenario.name}: {scenario.summary}" for scenario in SCENARIOS.values())


@click.command(epilog="Example: locum loadtest --url http://127.0.0.1:8080/v1 --scenario stream --seconds 10 --json")
@click.option("--url", default="http://127.0.0.1:8080/v1", show_default=True, help="Loopback only.")
@click.option("--scenario", type=click.Choice(list(SCENARIOS)), default="plain", show_default=True, help=_SCENARIO_HELP)
@click.option("--model", default="auto", show_default=True, help="The model name that is asked for.")
@click.option("--seconds", type=click.FloatRange(0, MAX_SECONDS, min_open=True), default=10.0, show_default=True)
@click.option("--requests", "max_requests", type=click.IntRange(1, MAX_REQUESTS), default=MAX_REQUESTS, help="At most.")
@click.option("--connections", type=click.IntRange(1, MAX_CONNECTIONS), help="Closed loops; default: the scenario's.")
@click.option("--rate", type=click.FloatRange(0, MAX_RATE_PER_S, min_open=True), help="Open loop: so many a second.")
@click.option("--api-key-env", help="Environment variable with the key to send.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def loadtest(  # noqa: PLR0913 - one parameter an option
    *,
    url: str,
    scenario: str,
    model: str,
    seconds: float,
    max_requests: int,
    connections: int | None,
    rate: float | None,
    api_key_env: str | None,
    as_json: bool,
) -> None:
    """Send load to a gateway or backend on this machine and print rates, latencies and failures.

    Exit code 1 when a request failed. Streams ask the fake backend for 50 chunks; a real model answers as it likes.
    """
    try:
        target = Target.parse(url)
    except TargetError as exc:
        raise click.BadParameter(str(exc), param_hint="--url") from exc
    api_key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env and not api_key:
        raise click.BadParameter(f"the environment variable {api_key_env} is not set", param_hint="--api-key-env")
    if rate is not None and connections is not None:
        raise click.UsageError("--rate and --connections exclude each other: an open loop has no fixed connections")
    limits = Limits(duration_s=seconds, max_requests=max_requests)
    result = run(_run(target, SCENARIOS[scenario], model, limits, connections, rate, api_key))
    click.echo(msgspec.json.encode(result).decode() if as_json else describe(result))
    if result.failed or not result.requests:
        raise SystemExit(1)


def _run(
    target: Target,
    scenario: Scenario,
    model: str,
    limits: Limits,
    connections: int | None,
    rate: float | None,
    api_key: str | None,
) -> Coroutine[Any, Any, LoadResult]:
    bodies = calls(scenario.name, model, count=min(UNIQUE_CALLS, limits.max_requests))
    rate_per_s = rate if rate is not None else (None if connections else scenario.rate_per_s)
    if rate_per_s is not None:
        return open_loop(target, bodies, rate_per_s=rate_per_s, limits=limits, api_key=api_key)
    return closed_loop(target, bodies, connections=connections or scenario.connections, limits=limits, api_key=api_key)


def describe(result: LoadResult) -> str:
    """A result for people."""
    latency, first = result.latency, result.first_body
    lines = [
        f"{result.requests} requests in {result.duration_s:.1f} s, {result.failed} failed: "
        f"{result.requests_per_s:.1f} answers/s, {result.events / result.duration_s:.0f} events/s",
        f"latency     p50 {latency.p50_s:.4f} s  p90 {latency.p90_s:.4f} s  p99 {latency.p99_s:.4f} s  "
        f"max {latency.max_s:.4f} s",
        f"first byte  p50 {first.p50_s:.4f} s  p90 {first.p90_s:.4f} s  p99 {first.p99_s:.4f} s  "
        f"max {first.max_s:.4f} s",
    ]
    lines += [f"failed      {count} x {cause}" for cause, count in sorted(result.failures.items())]
    lines += [f"routed      {count} x {route}" for route, count in sorted(result.routes.items())]
    return "\n".join(lines)
