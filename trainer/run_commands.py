"""`locum train run | status | verify`: the pipeline on the command line. Progress goes to standard error."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
import msgspec
from rich.console import Console

from trainer import reporting, run_folder, stages
from trainer.pipeline import Pipeline, StageFailed, StageStatus, alarms, describe, warnings
from trainer.recipe import RecipeError, load
from trainer.run_folder import StageRecord
from trainer.stage import Json, StageError

_RECIPE = click.option(
    "-c", "--config", "recipe_file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The recipe (TOML).",
)  # fmt: skip
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_STAGE = click.Choice(stages.STAGE_NAMES)
FUNNEL_AFTER = "split"
NEGATIVE = frozenset({"fail", "inconclusive"})


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM, with its number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class WrongInput(click.ClickException):
    exit_code = 2


class Failed(click.ClickException):
    exit_code = 1


@click.command("run")
@_RECIPE
@click.option("--from", "start", type=_STAGE, help="Run this stage and all after it again, finished or not.")
@click.option("--to", "end", type=_STAGE, help="Stop after this stage.")
@_JSON
def run_command(recipe_file: Path, start: str | None, end: str | None, as_json: bool) -> None:
    """From the traffic log to a bundle: run the stages of a recipe that are not finished.

    Every stage is kept under a hash of what it depends on. An interrupted run goes on where it stopped when the same
    command is given again; a changed recipe runs again only what the change concerns.

    Exits with 0, with 1 when a stage could not go on or the gate did not say PASS, with 2 for a wrong recipe.

    \b
    Example:
      locum train run -c recipe.toml
      locum train run -c recipe.toml --to split      # only the data
      locum train run -c recipe.toml --from export   # with a new snapshot of the log
    """
    pipeline = _pipeline(recipe_file, end)
    reporter = reporting.reporter(Console(stderr=True))
    try:
        with _signals_raise():
            records = pipeline.run(reporter, start=start, end=end, after=partial(_write_funnel_after, pipeline))
    except Interrupted as exc:
        reporter.close()
        click.echo("interrupted: what is done is kept; give the same command again to go on", err=True)
        raise SystemExit(128 + exc.number) from exc
    except StageFailed as exc:
        reporter.close()
        raise Failed(str(exc)) from exc
    except run_folder.Busy as exc:
        reporter.close()
        raise Failed(str(exc)) from exc
    except StageError as exc:
        reporter.close()
        raise WrongInput(str(exc)) from exc
    reporter.close()
    verdict = _verdict(records)
    if as_json:
        _print_json({"name": pipeline.recipe.name, "folder": str(pipeline.folder), "verdict": verdict,
                     "stages": {name: _as_json(record) for name, record in records.items()}})  # fmt: skip
    else:
        last = list(records.values())[-1]
        click.echo(f"{last.stage}: {describe(last.summary)}; {pipeline.folder}")
    if verdict in NEGATIVE:
        raise SystemExit(1)


@click.command("status")
@_RECIPE
@click.option("--html", is_flag=True, help="Write the funnel (HTML and JSON) into the run's folder again.")
@_JSON
def status_command(recipe_file: Path, html: bool, as_json: bool) -> None:
    """How far a recipe has got, what each stage kept, and what it would run next.

    \b
    Example:
      locum train status -c recipe.toml
      locum train status -c recipe.toml --html
    """
    pipeline = _pipeline(recipe_file)
    try:
        found = pipeline.status()
        written = _write_funnel(pipeline) if html else None
    except StageError as exc:
        raise Failed(str(exc)) from exc
    if as_json:
        _print_json({
            "name": pipeline.recipe.name, "folder": str(pipeline.folder),
            "funnel": None if written is None else str(written),
            "stages": [_status_json(each) for each in found],
        })  # fmt: skip
        return
    for each in found:
        click.echo(_status_line(each))
        if each.record is not None:
            for alarm in alarms(each.record.summary):
                click.echo(f"{'':14} ALARM: {alarm}")
            for warning in warnings(each.record.summary):
                click.echo(f"{'':14} WARNING: {warning}")
    if html:
        click.echo("nothing is finished yet: no funnel" if written is None else f"funnel: {written}")


@click.command("verify")
@_RECIPE
@_JSON
def verify_command(recipe_file: Path, as_json: bool) -> None:
    """Hash all outputs of finished stages again, of earlier versions of the recipe too. Exits with 1 when one changed.

    \b
    Example:
      locum train verify -c recipe.toml
    """
    pipeline = _pipeline(recipe_file)
    problems: list[str] = []
    files = 0
    for folder, record in pipeline.finished():
        if record is None:
            problems.append(f"{folder / run_folder.STAGE_FILE}: missing or damaged")
            continue
        files += len(record.files)
        problems += run_folder.damage(folder, record, rehash=True)
    if as_json:
        _print_json({"folder": str(pipeline.folder), "files": files, "problems": list(problems)})
    else:
        for problem in problems:
            click.echo(problem)
        click.echo(f"{files} files, {len(problems)} problems in {pipeline.folder}")
        if problems:
            click.echo("run again with --from the first stage that is named")
    if problems:
        raise SystemExit(1)


def _pipeline(recipe_file: Path, end: str | None = None) -> Pipeline:
    """With the stages up to `end`: later ones need not be installed for a shorter run."""
    try:
        recipe = load(recipe_file)
        names = stages.STAGE_NAMES if end is None else stages.STAGE_NAMES[: stages.STAGE_NAMES.index(end) + 1]
        return Pipeline(recipe, stages.load(names))
    except (RecipeError, StageError) as exc:
        raise WrongInput(str(exc)) from exc


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGINT and SIGTERM end the run as an exception does: jobs and files are closed on the way out."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_funnel_after(pipeline: Pipeline, stage: str) -> None:
    if stage == FUNNEL_AFTER:
        _write_funnel(pipeline)


def _write_funnel(pipeline: Pipeline) -> Path | None:
    from trainer import funnel  # noqa: PLC0415 - pyarrow and jinja2

    finished = [
        (each.record, each.folder)
        for each in pipeline.status()
        if each.state == "finished" and each.record is not None and each.folder is not None
    ]
    if not finished:
        return None
    html, _ = funnel.write(funnel.build(pipeline.recipe.name, finished), pipeline.folder)
    return html


def _verdict(records: dict[str, StageRecord]) -> str | None:
    verdict = records["gate"].summary.get("verdict") if "gate" in records else None
    return None if verdict is None else str(verdict).lower()


def _status_line(status: StageStatus) -> str:
    line = f"{status.name:14} {status.state:12}"
    if status.address is not None:
        line += f" {status.address[: run_folder.ADDRESS_DIGITS]}"
    if status.record is not None:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.record.finished_s))
        took = reporting.duration(status.record.seconds)
        line += f"  {describe(status.record.summary)} ({took}, {when})"
    if status.problem is not None:
        line += f"  {status.problem}"
    return line


def _status_json(status: StageStatus) -> dict[str, Json]:
    record = status.record
    return {
        "stage": status.name, "state": status.state, "address": status.address,
        "folder": None if status.folder is None else str(status.folder), "problem": status.problem,
        "record": None if record is None else _as_json(record),
    }  # fmt: skip


def _as_json(record: StageRecord) -> dict[str, Json]:
    found: dict[str, Json] = msgspec.to_builtins(record)
    return found


def _print_json(value: dict[str, Json]) -> None:
    click.echo(msgspec.json.encode(value).decode())
