"""The benchmark: the bare backend, nginx, Locum and other gateways side by side, on pinned cores, in one run.

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
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import click
import httpx
import msgspec
from rich.console import Console

from loadtests import systems
from loadtests.children import Child, ChildError, ForeignCpu
from loadtests.client import Target
from loadtests.comparison import Contender, print_comparison
from loadtests.environment import describe_environment
from loadtests.faults.system import Launch, NotInstalled
from loadtests.goals import goals
from loadtests.measure import MeasurementError, Sample, System, check, measure, warm_up
from loadtests.peers import PEER_NAMES, Peer, all_peers
from loadtests.report import Report, medians, print_report
from loadtests.scenarios import SCENARIOS, Call, Name, Scenario, calls
from loadtests.wrk import WrkError

OWN_SYSTEMS = ("direct", "nginx", "locum")
SYSTEMS = (*OWN_SYSTEMS, *PEER_NAMES)
MIN_LATENCY_RUN_S = 6.0
"""A tail needs thousands of requests, and what a gateway does every few seconds must fall into every run."""
COMPARED: tuple[Name, ...] = ("plain", "stream", "latency", "single")
HEADROOM = 1.2
"""A system that gives less than this times a constant rate is not asked for it: the figure would be its queue."""
DEFAULT_CACHE = Path(".cache/peers")


@click.command(epilog="Example: python -m loadtests.bench --system locum --system litellm --json bench.json")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write everything here.")
@click.option("--seconds", type=click.FloatRange(1, 60), default=3.0, show_default=True, help="Length of one run.")
@click.option("--rounds", type=click.IntRange(1, 20), default=3, show_default=True, help="Runs of each pair.")
@click.option("--system", "names", type=click.Choice(SYSTEMS), multiple=True, default=SYSTEMS, show_default=True)
@click.option(
    "--cache", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_CACHE, show_default=True,
    help="Where the other gateways are installed; what is there already is used again.",
)  # fmt: skip
@click.option(
    "--production-stack", type=click.Path(path_type=Path, file_okay=False, exists=True), envvar="PRODUCTION_STACK",
    help="Folder `src` of a checkout of the vLLM production stack.",
)  # fmt: skip
def main(
    json_path: Path | None,
    seconds: float,
    rounds: int,
    names: tuple[str, ...],
    cache: Path,
    production_stack: Path | None,
) -> None:
    """Measure Locum against other gateways, nginx, and no proxy at all; takes about ten minutes and ends by itself.

    Exit code 1 when a target is not met or a request failed, 2 when a tool is missing.
    """
    _require_tools()
    _end_on_sigterm()
    console = Console(width=None if sys.stdout.isatty() else 120)
    load_cores, system_cores = _split_cores(console)
    os.sched_setaffinity(0, load_cores)
    peers = [peer for peer in all_peers(production_stack) if peer.name in names]
    try:
        contenders, installed = _install(console, peers, cache)
        report = run_benchmark(
            console, names, installed, rounds, seconds, load_cores=load_cores, system_cores=system_cores
        )
    except (ChildError, MeasurementError, WrkError) as exc:
        raise click.ClickException(str(exc)) from exc
    report = msgspec.structs.replace(report, contenders=contenders)
    print_report(console, report)
    print_comparison(console, report)
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if any(row.failed for row in report.medians) or not all(goal.met for goal in report.goals):
        raise SystemExit(1)


def _install(console: Console, peers: Sequence[Peer], cache: Path) -> tuple[list[Contender], list[Peer]]:
    """What there is to say about each, and those that can be had here."""
    contenders, installed = [], []
    for peer in peers:
        reason = ""
        with console.status(f"installing {peer.name}"):
            try:
                peer.install(cache)
                installed.append(peer)
            except NotInstalled as exc:
                reason = str(exc)
        contenders.append(Contender(name=peer.name, version=peer.version, about=peer.about, not_installed=reason))
    return contenders, installed


def run_benchmark(
    console: Console,
    names: tuple[str, ...],
    peers: Sequence[Peer],
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
    bodies = Bodies()
    with (
        tempfile.TemporaryDirectory(prefix="locum-bench-") as name,
        console.status("starting") as status,
        running_systems(names, peers, Path(name), load_cores, system_cores) as running,
    ):
        for system in running:
            status.update(f"warming up {system.name}")
            check(system, bodies.of("plain", system), bodies.of("stream", system))
            warm_up(system, bodies.of("plain", system))
            warm_up(system, bodies.of("stream", system))
        foreign = ForeignCpu(load_cores | system_cores)
        for round_number in range(1, rounds + 1):
            for scenario_name in COMPARED:
                for system in running:
                    status.update(f"round {round_number} of {rounds}: {scenario_name}, {system.name}")
                    scenario = SCENARIOS[scenario_name]
                    if is_too_slow(system, scenario, samples):
                        continue
                    run_s = max(seconds, MIN_LATENCY_RUN_S) if scenario.rate_per_s else seconds
                    load = bodies.of(scenario_name, system)
                    samples.append(measure(system, scenario, load, seconds=run_s, folder=Path(name)))
        for system in running:
            if system.name == "locum":
                status.update("mixed routing, locum")
                load = bodies.of("mixed", system)
                samples.append(measure(system, SCENARIOS["mixed"], load, seconds=seconds, folder=Path(name)))
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


class Bodies:
    """Requests for each model name that a system wants; made once each."""

    def __init__(self) -> None:
        self._made: dict[tuple[Name, str], list[Call]] = {}

    def of(self, name: Name, system: System) -> list[Call]:
        made = self._made.get((name, system.model))
        if made is None:
            made = self._made[name, system.model] = calls(name, system.model)
        return made


def is_too_slow(system: System, scenario: Scenario, samples: Sequence[Sample]) -> bool:
    """Whether it cannot keep up with the scenario's constant rate."""
    if scenario.rate_per_s is None:
        return False
    reached = [s.requests_per_s for s in samples if (s.system, s.scenario) == (system.name, "plain")]
    return max(reached, default=0.0) < scenario.rate_per_s * HEADROOM


@contextlib.contextmanager
def running_systems(
    names: tuple[str, ...], peers: Sequence[Peer], folder: Path, load_cores: set[int], system_cores: set[int]
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
        for name in OWN_SYSTEMS:
            if name not in names:
                continue
            port, child = backend_port, backend
            if name in start:
                port = systems.free_port()
                child = stack.enter_context(start[name](port, backend_port, cores=system_cores, folder=folder))
            headers = systems.LOCUM_HEADERS if name == "locum" else {}
            running.append(System(name, Target.parse(f"http://127.0.0.1:{port}/v1"), child, headers=headers))
        for peer in peers:
            port = systems.free_port()
            launch = peer.launch(port, f"http://127.0.0.1:{backend_port}/v1", folder)
            child = stack.enter_context(_child(peer, launch, port, system_cores, folder))
            running.append(_system(peer, launch, port, child))
        yield running


def _child(peer: Peer, launch: Launch, port: int, cores: set[int], folder: Path) -> Child:
    return Child(
        peer.name,
        launch.command,
        cores=cores,
        ready_url=f"http://127.0.0.1:{port}{launch.ready_path}",
        log=folder / f"{peer.name}.log",
        ready_timeout_s=launch.ready_timeout_s,
    )


def _system(peer: Peer, launch: Launch, port: int, child: Child) -> System:
    origin = f"http://127.0.0.1:{port}"
    if launch.tells_origin:
        told = urlsplit(httpx.get(origin, trust_env=False).json()["origin"])
        origin = f"{told.scheme}://127.0.0.1:{told.port}"
    base = launch.path.removesuffix("/chat/completions")
    target = Target.parse(f"{origin}{base}")
    return System(peer.name, target, child, model=launch.model, headers=launch.headers, passes_bytes=False)


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
