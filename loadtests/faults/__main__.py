"""`python -m loadtests.faults`: every case against every gateway that can be installed."""

from __future__ import annotations

import asyncio
import datetime
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click
import msgspec
from rich.console import Console

from loadtests.environment import describe_environment
from loadtests.faults.cases import CASES
from loadtests.faults.judging import Case
from loadtests.faults.play import play_all
from loadtests.faults.report import Report, SystemReport, page, print_report
from loadtests.faults.system import NotInstalled, System
from loadtests.faults.systems.cascadeflow import Cascadeflow
from loadtests.faults.systems.litellm import LiteLLM
from loadtests.faults.systems.locum import Locum
from loadtests.faults.systems.portkey import Portkey
from loadtests.faults.systems.production_stack import ProductionStack
from loadtests.faults.systems.tensorzero import TensorZero
from loadtests.faults.systems.vllm_router import VllmRouter

SYSTEMS: dict[str, type[System]] = {
    "locum": Locum,
    "litellm": LiteLLM,
    "tensorzero": TensorZero,
    "portkey": Portkey,
    "vllm-router": VllmRouter,
    "production-stack": ProductionStack,
    "cascadeflow": Cascadeflow,
}
DEFAULT_CACHE = Path(".cache/peers")


@click.command(epilog="Example: python -m loadtests.faults --system locum --system litellm --json faults.json")
@click.option("--system", "names", type=click.Choice(list(SYSTEMS)), multiple=True, help="May be repeated.")
@click.option("--case", "case_names", type=click.Choice([case.name for case in CASES]), multiple=True, metavar="NAME")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write everything here.")
@click.option("--page", "page_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the document here.")
@click.option(
    "--cache", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_CACHE, show_default=True,
    help="Where the other gateways are installed; what is there already is used again.",
)  # fmt: skip
def main(
    names: tuple[str, ...],
    case_names: tuple[str, ...],
    json_path: Path | None,
    page_path: Path | None,
    cache: Path,
) -> None:
    """Play faults against gateways on this machine, one after the other, and judge what their clients saw.

    Exit code 1 when Locum fails a case, 2 when an option is wrong.
    """
    if page_path is not None and (names or case_names):
        raise click.UsageError("--page shows every gateway and every case: leave --system and --case out")
    _end_on_sigterm()
    console = Console(width=None if sys.stdout.isatty() else 160)
    cases = [case for case in CASES if not case_names or case.name in case_names]
    systems = [_played(console, SYSTEMS[name](), cases, cache) for name in names or SYSTEMS]
    environment = describe_environment(set(), set())
    report = Report(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        commit=environment["commit"],
        hardware=environment["hardware"],
        python=platform.python_version(),
        systems=systems,
    )
    print_report(console, report)
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if page_path is not None:
        page_path.write_text(page(report))
    if any(cell.outcome != "pass" for system in systems if system.name == Locum.name for cell in system.cells):
        raise SystemExit(1)


def _played(console: Console, system: System, cases: Sequence[Case], cache: Path) -> SystemReport:
    """One gateway: installed, played, ended."""
    with console.status(f"{system.name}: installing") as status, tempfile.TemporaryDirectory(prefix="faults-") as name:
        try:
            system.install(cache)
        except NotInstalled as exc:
            return SystemReport(name=system.name, version=system.version, about=system.about, not_installed=str(exc))
        cells = asyncio.run(
            play_all(system, cases, Path(name), lambda case: status.update(f"{system.name}: {case.name}"))
        )
    passed = sum(cell.outcome == "pass" for cell in cells)
    console.print(f"{system.name} {system.version}: {passed} of {len(cells)} cases passed", highlight=False)
    return SystemReport(name=system.name, version=system.version, about=system.about, cells=cells)


def _end_on_sigterm() -> None:
    """SIGTERM ends us like Ctrl-C does, so that the gateways are stopped."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


if __name__ == "__main__":
    main()
