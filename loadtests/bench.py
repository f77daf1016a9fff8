"""The benchmark: the bare backend, nginx and Locum side by side, on pinned cores, in one run.

The system under test has a core of its own; the fake backend and the generators share the other. Every scenario is
measured in rounds that go from system to system, so that a noisy minute hits all of them, and the figures are medians.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click
import msgspec
from rich.console import Console

from loadtests import systems
from loadtests.children import ChildError, ForeignCpu
from loadtests.client import Target
from loadtests.environment import describe_environment
from loadtests.measure import MeasurementError, Sample, System, check, measure, warm_up
from loadtests.report import Report, goals, medians, print_report
from loadtests.scenarios import SCENARIOS, calls
from loadtests.wrk import WrkError

SYSTEMS = ("direct", "nginx", "locum")
MIN_LATENCY_RUN_S = 10.0
"""A tail needs thousands of requests, and what a gateway does every few seconds must fall into every run."""
COMPARED = ("plain", "stream", "latency", "single")


@click.command(epilog="Example: python -m loadtests.bench --seconds 4 --rounds 5 --json bench.json")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write everything here.")
@click.option("--seconds", type=click.FloatRange(1, 60), default=4.0, show_default=True, help="Length of one run.")
@click.option("--rounds", type=click.IntRange(1, 20), default=3, show_default=True, help="Runs of each pair.")
@click.option("--system", "names", type=click.Choice(SYSTEMS), multiple=True, default=SYSTEMS, show_default=True)
def main(json_path: Path | None, seconds: float, rounds: int, names: tuple[str, ...]) -> None:
    """Measure Locum against nginx and against no proxy at all; takes a few minutes and ends by itself.

    Exit code 1 when a target is not met or a request failed, 2 when a tool is missing.
    """
    _require_tools()
    _end_on_sigterm()
    console = Console(width=None if sys.stdout.isatty() else 120)
    load_cores, system_cores = _split_cores(console)
    os.sched_setaffinity(0, load_cores)
    try:
        report = run_benchmark(console, names, rounds, seconds, load_cores=load_cores, system_cores=system_cores)
    except (ChildError, MeasurementError, WrkError) as exc:
        raise click.ClickException(str(exc)) from exc
    print_report(console, report)
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if any(row.failed for row in report.medians) or not all(goal.met for goal in report.goals):
        raise SystemExit(1)


def run_benchmark(
    console: Console,
    names: tuple[str, ...],
    rounds: int,
    seconds: float,
    *,
    load_cores: set[int],
    system_cores: set[int],
) -> Report:
    """Start everything, measure, stop everything.

    Raises:
        ChildError, MeasurementError, WrkError: something did not start or did not answer.
    """
    environment = describe_environment(system_cores, load_cores)
    samples: list[Sample] = []
    bodies = {name: calls(scenario.name, systems.MODEL) for name, scenario in SCENARIOS.items()}
    with (
        tempfile.TemporaryDirectory(prefix="locum-bench-") as name,
        running_systems(names, Path(name), load_cores, system_cores) as running,
        console.status("warming up") as status,
    ):
        for system in running:
            check(system, bodies["plain"], bodies["stream"])
            warm_up(system, bodies["plain"])
            warm_up(system, bodies["stream"])
        foreign = ForeignCpu(load_cores | system_cores)
        for round_number in range(1, rounds + 1):
            for scenario_name in COMPARED:
                for system in running:
                    status.update(f"round {round_number} of {rounds}: {scenario_name}, {system.name}")
                    scenario = SCENARIOS[scenario_name]
                    run_s = max(seconds, MIN_LATENCY_RUN_S) if scenario.rate_per_s else seconds
                    samples.append(measure(system, scenario, bodies[scenario_name], seconds=run_s, folder=Path(name)))
        for system in running:
            if system.name == "locum":
                status.update("mixed routing, locum")
                samples.append(measure(system, SCENARIOS["mixed"], bodies["mixed"], seconds=seconds, folder=Path(name)))
        foreign_cpu_share = foreign.share()
    rows = medians(samples)
    routes: Counter[str] = Counter()
    for sample in samples:
        if sample.scenario == "mixed":
            routes.update(sample.routes)
    return Report(
        environment=environment,
        rounds=rounds,
        seconds=seconds,
        foreign_cpu_share=foreign_cpu_share,
        medians=rows,
        goals=goals(rows, samples),
        mixed_routes=dict(routes),
        samples=samples,
    )


@contextlib.contextmanager
def running_systems(
    names: tuple[str, ...], folder: Path, load_cores: set[int], system_cores: set[int]
) -> Iterator[list[System]]:
    """The fake backend and what was asked for in front of it; all ended at the exit.

    Raises:
        ChildError: one does not come up.
    """
    backend_port = systems.free_port()
    start = {"nginx": systems.nginx, "locum": systems.locum}
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(systems.fake_backend(backend_port, cores=load_cores, folder=folder))
        running = []
        for name in SYSTEMS:
            if name not in names:
                continue
            port, child = backend_port, backend
            if name in start:
                port = systems.free_port()
                child = stack.enter_context(start[name](port, backend_port, cores=system_cores, folder=folder))
            running.append(System(name, Target.parse(f"http://127.0.0.1:{port}/v1"), child))
        yield running


def _split_cores(console: Console) -> tuple[set[int], set[int]]:
    """Cores for the load and for the system under test: the last of those that we may use is the system's."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        console.print("only one core: the system under test shares it with the load, the figures are low")
        return {available[0]}, {available[0]}
    return {available[0]}, {available[1]}


def _require_tools() -> None:
    if not hasattr(os, "sched_setaffinity"):
        raise click.UsageError("the benchmark pins processes to cores and reads /proc: it needs Linux")
    missing = systems.missing_tools()
    if missing:
        raise click.UsageError(f"missing: {', '.join(missing)}. Install with: apt-get install -y {' '.join(missing)}")


def _end_on_sigterm() -> None:
    """SIGTERM ends us like Ctrl-C does, so that the children are stopped."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


if __name__ == "__main__":
    main()
