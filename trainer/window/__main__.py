"""`python -m trainer.window`: measure a student's commit windows, or go on with it; writes the plot and the figures."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click
import httpx
import msgspec

from serving.demo.settings import free_port
from serving.demo.stack import fresh_log
from serving.errors import ServingError
from serving.models import prepare_student
from serving.options import VllmOptions
from serving.student import StudentProcess
from trainer.window.analysis import analyse
from trainer.window.collect import collect
from trainer.window.delays import through_gateway
from trainer.window.plot import png
from trainer.window.table import lines
from trainer.window.tasks import Task, labelled, tasks

MAX_TOKENS = 170
"""Of an answer: the longest right one has less."""
ALONE = 12
"""Tasks that are asked one at a time, for the delays."""
WINDOW_TOKENS = 2048


@click.command()
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), default=Path("window"), show_default=True,
    help="Where the answers and the figures are kept; a run that was stopped goes on there.")  # fmt: skip
@click.option("--base-url", help="A served student, with /v1; default: SmolLM2-135M-Instruct under vLLM.")
@click.option("--tasks", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Lines of JSON with id, messages and label; default: lists to repeat.")  # fmt: skip
@click.option("--model", default="student", show_default=True, help="Its name there.")
@click.option("--count", type=click.IntRange(40), default=640, show_default=True, help="Tasks.")
@click.option("--concurrency", type=click.IntRange(2, 256), default=24, show_default=True)
@click.option("--streams", type=click.IntRange(0), default=12, show_default=True,
    help="Streams through the gateway for every window; 0: none.")  # fmt: skip
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="PNG file; default: within --work.")
def main(
    work: Path, base_url: str | None, file: Path | None, model: str, count: int, concurrency: int, streams: int,
    plot: Path | None,
) -> None:  # fmt: skip
    """Stream tasks with known answers from a student, and say what commit windows of each size would have seen.

    Example: python -m trainer.window --plot docs/commit-window.png
    """
    work.mkdir(parents=True, exist_ok=True)
    try:
        chosen = tasks(count) if file is None else labelled(file)[:count]
        asyncio.run(_measure(work, base_url, model, chosen, concurrency, streams))
    except msgspec.DecodeError as exc:
        raise click.BadParameter(f"{file}: {exc}", param_hint="--tasks") from exc
    except (ServingError, httpx.HTTPError) as exc:
        raise click.ClickException(str(exc)) from exc
    _report(work, plot or work / "window.png")


async def _measure(
    work: Path, base_url: str | None, model: str, chosen: list[Task], concurrency: int, streams: int
) -> None:
    answers = work / "answers.jsonl"
    async with _student(base_url, work) as url:
        for number, at_once in ((ALONE, 1), (len(chosen), concurrency)):
            click.echo(f"{number} tasks, {at_once} at a time", err=True)
            await collect(chosen[:number], url, model, answers, concurrency=at_once, max_tokens=MAX_TOKENS)
        if streams:
            await through_gateway(chosen[:streams], url, model, work)


def _report(work: Path, plot: Path) -> None:
    from trainer.window.collect import read  # noqa: PLC0415 - a name of its own in here
    from trainer.window.delays import read_ttft  # noqa: PLC0415

    try:
        analysis = analyse(read(work / "answers.jsonl"))
    except ValueError as exc:
        raise click.ClickException(str(exc)) from exc
    ttft = read_ttft(work)
    result = {"analysis": analysis, "gateway_ttft_s": ttft}
    (work / "window.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    plot.write_bytes(png(analysis))
    for line in lines(analysis, ttft):
        click.echo(line)


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
