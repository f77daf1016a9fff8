"""`python -m trainer.claim DATA`: run the claim, or go on with it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path

import click
from rich.console import Console

from serving.demo.progress import Steps
from serving.errors import ServingError
from serving.store import default_cache
from trainer.claim import page
from trainer.claim.client import SendingFailed
from trainer.claim.data import DataError, divide
from trainer.claim.run import run
from trainer.claim.servers import CommandFailed
from trainer.claim.settings import FULL, SMALL, Settings, Size
from trainer.claim.steps import Ledger, OtherRun, Result
from trainer.stage import StageError

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NEW_FOLDER = click.Path(file_okay=False, path_type=Path)
SIZES: dict[str, Size] = {"full": FULL, "small": SMALL}


@click.command()
@click.argument("data", type=_FOLDER)
@click.option("--work", type=_NEW_FOLDER, default=Path("claim"), show_default=True, help="Where the run lives.")
@click.option("--size", type=click.Choice(sorted(SIZES)), default="full", show_default=True)
@click.option(
    "--compare", is_flag=True, help="Also train with plain CE and with renormalised top-K, from the first seed."
)
@click.option("--seeds", type=click.IntRange(1, 10), default=1, show_default=True,
    help="Students trained alike but for the seed: how much chance is in a figure.",
)  # fmt: skip
@click.option("--serving-python", help="Interpreter that has vLLM; default: .venv-serving.")
@click.option("--page", "page_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the docs page here.")
def claim(
    data: Path, work: Path, size: str, compare: bool, seeds: int, serving_python: str | None, page_path: Path | None
) -> None:
    """Measure the claim on BANKING77: teacher, traffic, student, gate, promotion, threshold, the whole test set.

    Interrupted, the same command goes on. Example: python -m trainer.claim path/to/banking77 --compare
    """
    work.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        data=data,
        work=work.resolve(),
        cache=default_cache(),
        size=SIZES[size],
        seeds=seeds,
        compare=compare,
        serving_python=serving_python or os.environ.get("LOCUM_SERVING_PYTHON"),
    )
    console = Console(stderr=True)
    try:
        division = divide(data, settings.size)
        with Steps(console) as steps:
            ledger = Ledger(settings.work / "steps", steps)
            figures = run(settings, division, ledger)
    except (DataError, OtherRun) as exc:
        raise click.UsageError(str(exc)) from exc
    except (StageError, ServingError, SendingFailed, CommandFailed, ExceptionGroup) as exc:
        raise click.ClickException(f"{_reason(exc)}\nWhat is done is kept; the same command goes on.") from exc
    figures["machine"] = _machine(ledger.minutes())
    (work / "claim.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    for part in (page.table, page.summary, page.verdicts, page.losses):
        click.echo("\n".join([*part(figures), ""]))
    if page_path is not None:
        page.write_page(page_path, figures)


def _machine(minutes: float) -> Result:
    """Hardware, commit and time."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 - whatever git the user has
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
    ).stdout.strip()  # fmt: skip
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "commit": commit or "unknown",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "minutes": minutes,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _reason(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {exc}"


if __name__ == "__main__":
    claim()
