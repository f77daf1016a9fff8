"""`python -m trainer.window`: measure a student's commit windows, or go on with it; writes the plot and the figures."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import click
import httpx
import msgspec

from serving.demo.settings import free_port
from serving.demo.stack import fresh_log
from serving.errors import ServingError
from serving.models import prepare_student
from serving.options import VllmOptions
from serving.student import StudentProcess
from trainer.window.analysis import Analysis, analyse
from trainer.window.collect import collect, read
from trainer.window.delays import Delays, delays, measure
from trainer.window.plot import png
from trainer.window.table import tables, write_into
from trainer.window.tasks import FAMILIES, Task, labelled, tasks

MAX_TOKENS = 170
"""Of an answer: the longest right one has less."""
WINDOW_TOKENS = 2048
OWN = "labelled"
"""The family of tasks from a file."""


class _Result(msgspec.Struct):
    families: list[Analysis]
    delays: Delays


@click.command()
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), default=Path("window"), show_default=True,
    help="Where the answers and the figures are kept; a run that was stopped goes on there.")  # fmt: skip
@click.option("--base-url", help="A served student, with /v1; default: SmolLM2-135M-Instruct under vLLM.")
@click.option("--model", default="student", show_default=True, help="Its name there.")
@click.option("--tasks", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Lines of JSON with id, messages and label; default: the families of docs/commit-window.md.")  # fmt: skip
@click.option("--count", type=click.IntRange(40), default=600, show_default=True, help="Tasks of every family.")
@click.option("--concurrency", type=click.IntRange(2, 256), default=24, show_default=True)
@click.option("--only", type=click.Choice(["answers", "delays", "report"]),
    help="What windows see, what they cost (on a quiet machine), or neither: figures of what is there. "
    "Default: all.")  # fmt: skip
@click.option("--page", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put the tables into this page, and the plot beside it; default: window.png within --work.")  # fmt: skip
def main(
    work: Path, base_url: str | None, model: str, file: Path | None, count: int, concurrency: int,
    only: Literal["answers", "delays", "report"] | None, page: Path | None,
) -> None:  # fmt: skip
    """Stream tasks with known answers from a student, and say what commit windows of each size would have seen.

    Example: python -m trainer.window --only delays --page docs/commit-window.md
    """
    work.mkdir(parents=True, exist_ok=True)
    try:
        chosen = {OWN: labelled(file)[:count]} if file else {name: tasks(name, count) for name in FAMILIES}
    except msgspec.DecodeError as exc:
        raise click.BadParameter(f"{file}: {exc}", param_hint="--tasks") from exc
    try:
        if only != "report":
            asyncio.run(_measure(work, base_url, model, chosen, concurrency, only))
        _report(work, chosen, page, only)
    except (ServingError, httpx.HTTPError, ValueError) as exc:
        raise click.ClickException(str(exc)) from exc


async def _measure(
    work: Path, base_url: str | None, model: str, chosen: dict[str, list[Task]], concurrency: int, only: str | None
) -> None:
    async with _student(base_url, work) as url:
        for name, asked in chosen.items() if only != "delays" else ():
            click.echo(f"{name}: {len(asked)} tasks, {concurrency} at a time", err=True)
            await collect(asked, url, model, _file(work, name), concurrency=concurrency, max_tokens=MAX_TOKENS)
        if only != "answers":
            click.echo("delays: alone, together and through the gateway", err=True)
            first = next(iter(chosen.values()))
            await measure(first, url, model, work, concurrency=concurrency, max_tokens=MAX_TOKENS)


def _file(work: Path, family: str) -> Path:
    (work / family).mkdir(exist_ok=True)
    return work / family / "answers.jsonl"


def _report(work: Path, chosen: dict[str, list[Task]], page: Path | None, only: str | None) -> None:
    """Raises: ValueError: a family lacks answers, or has one outcome only; the page lacks marks."""
    found = []
    for name, asked in chosen.items():
        wanted = {task.task_id for task in asked}
        rows = [row for row in read(_file(work, name)) if row.task_id in wanted]
        if rows or only != "delays":
            found.append(analyse(name, rows))
    measured = delays(work)
    result = msgspec.json.encode(_Result(found, measured))
    (work / "window.json").write_bytes(msgspec.json.format(result, indent=1) + b"\n")
    if found:
        (page.with_suffix(".png") if page else work / "window.png").write_bytes(png(found, measured))
    made = tables(found, measured, lambda name: FAMILIES[name].about if name in FAMILIES else "tasks of a file")
    if page is not None:
        write_into(page, made)
    for table in made.values():
        click.echo(f"{table}\n")


@asynccontextmanager
async def _student(base_url: str | None, work: Path) -> AsyncIterator[str]:
    """Its URL, with a slash at its end."""
    if base_url is not None:
        yield base_url.rstrip("/") + "/"
        return
    model = await asyncio.to_thread(prepare_student, lambda message: click.echo(message, err=True))
    options = VllmOptions(
        model=str(model.path),
        served_model_name="student",
        port=free_port(),
        python=os.environ.get("LOCUM_SERVING_PYTHON"),
        context_window_tokens=WINDOW_TOKENS,
        max_num_seqs=64,
        log_file=str(fresh_log(work, "student")),
    )
    async with StudentProcess(options) as process:
        await process.ready()
        yield process.base_url.rstrip("/") + "/"


if __name__ == "__main__":
    main()
