"""`locum demo`: the whole product on real models, with one command."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
from pathlib import Path

import click
from rich.console import Console

from serving.demo.results import Prices
from serving.demo.session import DemoOptions, RemoteTeacher, Session
from serving.errors import LaunchError, ModelError, ServingError
from serving.store import default_cache

INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
WRONG_INPUT = 2
DEFAULT_PORT = 8080


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C, and print the base URL.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("demo.json"),
    show_default=True,
    help="Where the results are written.",
)
@click.option("--port", type=click.IntRange(1, 65535), help=f"The gateway's port; default: {DEFAULT_PORT} if free.")
@click.option("--concurrency", type=click.IntRange(1, 16), default=4, show_default=True, help="Requests at a time.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".cache/demo"),
    show_default=True,
    help="Where locum.toml, logs, the traffic log and embeddings go. Models are kept in LOCUM_CACHE.",
)
@click.option(
    "--student-model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a student of your own; default: SmolLM2-135M-Instruct.",
)
@click.option("--vllm-python", metavar="PATH", help="Interpreter that has vLLM; default: .venv-serving's.")
@click.option("--teacher-url", metavar="URL", help="Any OpenAI-compatible API, up to /v1; default: a local model.")
@click.option("--teacher-model", metavar="NAME", help="The teacher's name at --teacher-url.")
@click.option("--teacher-key-env", metavar="NAME", help="Environment variable with the key for --teacher-url.")
@click.option("--teacher-price-input", type=click.FloatRange(min=0), metavar="USD", help="Per 1M input tokens.")
@click.option("--teacher-price-output", type=click.FloatRange(min=0), metavar="USD", help="Per 1M output tokens.")
@click.pass_context
def demo(  # noqa: PLR0913 - one parameter an option
    ctx: click.Context, /, *, keep: bool, output: Path, port: int | None, concurrency: int, folder: Path,
    student_model: Path | None, vllm_python: str | None, teacher_url: str | None, teacher_model: str | None,
    teacher_key_env: str | None, teacher_price_input: float | None, teacher_price_output: float | None,
) -> None:  # fmt: skip
    """Run a docs assistant on a real student and a real teacher, and show what each request took and cost.

    Exit codes: 0 everything answered and every policy fired; 1 something did not; 2 wrong input; 130 interrupted.

    \b
    Example: locum demo
    Example: locum demo --teacher-url https://api.example.com/v1 --teacher-model big --teacher-key-env API_KEY
    """
    teacher = _remote_teacher(teacher_url, teacher_model, teacher_key_env)
    _need_writable(output)
    _need_packages()
    options = DemoOptions(
        folder=folder.absolute(),
        cache=default_cache(),
        output=output,
        port=port,
        default_port=DEFAULT_PORT,
        concurrency=concurrency,
        keep=keep,
        student_model=student_model,
        vllm_python=vllm_python,
        teacher=teacher,
        prices=_prices(teacher, teacher_price_input, teacher_price_output),
    )
    try:
        ctx.exit(asyncio.run(_interruptible(Session(options, Console(highlight=False)))))
    except (ModelError, LaunchError) as exc:
        click.echo(f"error: {exc}", err=True)
        ctx.exit(WRONG_INPUT)
    except ServingError as exc:
        click.echo(f"error: {exc}\nLogs: {options.folder}", err=True)
        ctx.exit(1)


async def _interruptible(session: Session) -> int:
    """Run the session; Ctrl-C and SIGTERM end it: what finished is reported and every child is stopped.

    Both are handled here, since a shell starts background jobs with SIGINT ignored.
    """
    task = asyncio.current_task()
    if task is not None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
    try:
        return await session.run()
    except asyncio.CancelledError:
        return INTERRUPTED


def _remote_teacher(url: str | None, model: str | None, key_env: str | None) -> RemoteTeacher | None:
    if url is None:
        if model is not None or key_env is not None:
            raise click.UsageError("--teacher-model and --teacher-key-env need --teacher-url.")
        return None
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter("must begin with http:// or https://", param_hint="--teacher-url")
    if model is None:
        raise click.UsageError("--teacher-url needs --teacher-model: the name that the API knows the teacher by.")
    if key_env is not None and not os.environ.get(key_env):
        raise click.BadParameter(f"the environment variable {key_env} is not set", param_hint="--teacher-key-env")
    return RemoteTeacher(base_url=url.rstrip("/"), model=model, api_key_env=key_env)


def _prices(teacher: RemoteTeacher | None, input_usd: float | None, output_usd: float | None) -> Prices:
    """The example's list prices; of an API that the user gives only what the user says about it."""
    if (input_usd is None) != (output_usd is None):
        raise click.UsageError("--teacher-price-input and --teacher-price-output belong together.")
    if teacher is None and input_usd is None:
        return Prices()
    return Prices(teacher_input_usd=input_usd, teacher_output_usd=output_usd)


def _need_packages() -> None:
    missing = [name for name in ("openai", "sentence_transformers") if importlib.util.find_spec(name) is None]
    if missing:
        click.echo(
            f'error: not installed: {", ".join(missing)}; run `make demo`, or `pip install "locum[demo,semantic]"`',
            err=True,
        )
        raise SystemExit(WRONG_INPUT)


def _need_writable(output: Path) -> None:
    if not output.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder {output.absolute().parent} does not exist", param_hint="--output")
