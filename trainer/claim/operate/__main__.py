"""`python -m trainer.claim.operate --work CLAIM_FOLDER`: an operator's first change of a threshold."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from policies.traffic.survey import TrafficError
from serving.demo.progress import Steps
from serving.demo.settings import free_port
from serving.errors import ServingError
from serving.store import default_cache
from trainer.claim.client import SendingFailed, wait_for_student
from trainer.claim.data import Case
from trainer.claim.operate import page, setup
from trainer.claim.operate.session import Session
from trainer.claim.operate.stand import running_gateway
from trainer.claim.servers import START_TIMEOUT_S, CommandFailed, running_model
from trainer.claim.settings import Settings
from trainer.stage import Progress

FOLDER = "operate"
"""Below the claim's; made anew by every run."""
WIDTH = 120


@click.command()
@click.option("--work", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path("claim"),
    show_default=True, help="Folder of a finished claim. Only its subfolder `operate` is written, anew by each run.",
)  # fmt: skip
@click.option("--questions", type=click.IntRange(min=40), default=1500, show_default=True,
    help="Test questions: the first half before the change, the second after it.",
)  # fmt: skip
@click.option("--serving-python", help="Interpreter that has vLLM; default: .venv-serving.")
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C, to look at it in the console.")
def operate(work: Path, questions: int, serving_python: str | None, keep: bool) -> None:
    """Lower the bill with a finished claim's models, and measure what that did to quality.

    Example: python -m trainer.claim.operate --work claim --questions 1500
    """
    folder = work.resolve() / FOLDER
    settings = Settings(
        data=work,
        work=folder,
        cache=default_cache(),
        serving_python=serving_python or os.environ.get("LOCUM_SERVING_PYTHON"),
    )
    try:
        claim = setup.read_claim(work.resolve())
        halves = claim.halves(questions)
    except (setup.NoClaim, ServingError) as exc:
        raise click.UsageError(str(exc)) from exc
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        asyncio.run(_run(claim, settings, halves, keep))
    except (ServingError, SendingFailed, CommandFailed, TrafficError, ExceptionGroup) as exc:
        raise click.ClickException(f"{_reason(exc)}\nLogs of all processes are in {folder}.") from exc
    except KeyboardInterrupt:
        raise SystemExit(0 if keep else 130) from None


async def _run(
    claim: setup.Claim, settings: Settings, halves: tuple[Sequence[Case], Sequence[Case]], keep: bool
) -> None:
    with Steps(Console(stderr=True)) as steps:

        def progress(name: str) -> Progress:
            return lambda done, total, unit: steps.update(name, f"{done:,} of {total:,} {unit}" if total else unit)

        port, cores = free_port(), settings.teacher_cores
        student = setup.student_of(setup.own_registry(claim, settings.work), settings)
        cascade, show = f"threshold = {claim.cautious_threshold}", progress("serve the gateway")
        async with (  # the student loads behind the gateway while the teacher does
            running_gateway(settings.work, f"http://127.0.0.1:{port}/v1", student, cascade, show) as gateway,
            running_model(claim.teacher, "teacher", cores, settings, progress("serve the teacher"), port),
        ):
            await wait_for_student(
                f"{gateway.url}/v1", claim.bundle_id, timeout_s=START_TIMEOUT_S, api_key=gateway.api_key
            )
            session = Session(gateway, settings.work, progress, claim.teacher_answers())
            figures = await session.run(*halves)
            (settings.work / "operate.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
            page.show(figures, Console(width=WIDTH, soft_wrap=True, highlight=False))
            if keep:
                click.echo(
                    f"\n{gateway.url}/admin/console   export LOCUM_ADMIN_KEY={gateway.admin_key}   Ctrl-C ends it"
                )
                await asyncio.Event().wait()


def _reason(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {exc}"


if __name__ == "__main__":
    operate()
