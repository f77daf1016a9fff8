"""Starts what the demo talks to: the student (vLLM), the teacher (llama.cpp's server or any API), the gateway.

The gateway is `locum serve` with a configuration file, exactly as a user runs it. Every child runs below
`serving/guard.py`, so that nothing of it outlives the demo, however the demo ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from serving.demo.progress import Steps
from serving.demo.requests import STUDENT_WINDOW_TOKENS
from serving.demo.settings import GatewaySetup, free_port, locum_toml
from serving.launch import Command
from serving.options import VllmOptions
from serving.probe import Report
from serving.process import GuardedLauncher
from serving.student import StudentProcess
from serving.supervisor import Event, Observer, Runtime, State, Supervisor, Timing
from serving.teacher import TeacherOptions, TeacherProcess

GATEWAY_START_TIMEOUT_S = 180.0
TEACHER_SLOTS = 2
TEACHER_WINDOW_TOKENS = 4096
CHILD_STOP_TIMEOUT_S = 5.0
"""The demo stops its children after its last answer, or because it was interrupted: nobody waits for more."""


@asynccontextmanager
async def running_student(
    model: Path, python: str | None, cores: Sequence[int], folder: Path, steps: Steps
) -> AsyncIterator[StudentProcess]:
    """vLLM, starting; `ready()` of the yielded supervisor waits for it.

    Raises:
        ModelError, LaunchError: before anything is started.
    """
    options = VllmOptions(
        model=str(model),
        port=free_port(),
        python=python,
        context_window_tokens=STUDENT_WINDOW_TOKENS,
        cpu_omp_threads_bind=",".join(map(str, cores)) or None,
        shutdown_timeout_s=CHILD_STOP_TIMEOUT_S,
        max_restarts=0,
        log_file=str(fresh_log(folder, "student")),
    )
    async with StudentProcess(options, observer=_observer(steps, "start the student (vLLM)", "a minute")) as process:
        yield process


@asynccontextmanager
async def running_teacher(
    model: Path, python: str | None, cores: Sequence[int], folder: Path, steps: Steps
) -> AsyncIterator[TeacherProcess]:
    """llama.cpp's server, starting. Raises: ModelError, LaunchError."""
    options = TeacherOptions(
        model=str(model),
        port=free_port(),
        python=python,
        cpu_cores=tuple(cores),
        slots=TEACHER_SLOTS,
        context_window_tokens=TEACHER_WINDOW_TOKENS,
        log_file=str(fresh_log(folder, "teacher")),
    )
    async with TeacherProcess(options, observer=_observer(steps, "start the teacher (llama.cpp)", "10 s")) as process:
        yield process


@asynccontextmanager
async def running_gateway(setup: GatewaySetup, folder: Path, steps: Steps) -> AsyncIterator[str]:
    """`locum serve`, ready: both models reachable. Yields its URL.

    Raises:
        ProcessFailed: it died or did not become ready; the message ends with its log.
    """
    config = folder / "locum.toml"
    config.write_text(locum_toml(setup, folder / "traffic"), encoding="utf-8")
    url = f"http://127.0.0.1:{setup.port}"
    process = Supervisor(
        "gateway",
        gateway_command(config, os.environ),
        Timing(startup_timeout_s=GATEWAY_START_TIMEOUT_S, shutdown_timeout_s=CHILD_STOP_TIMEOUT_S, max_restarts=0),
        Runtime(
            launcher=GuardedLauncher(log_file=fresh_log(folder, "gateway")),
            probe=GatewayProbe(url),
            observer=_observer(steps, "start the gateway (locum serve)", "10 s"),
        ),
    )
    async with process:
        await process.ready()
        yield url


def gateway_command(config: Path, environ: Mapping[str, str]) -> Command:
    """`locum serve -c FILE`, offline."""
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    return locum_command({**environ, **quiet}, "serve", "-c", str(config))


def locum_command(environ: Mapping[str, str], *arguments: str) -> Command:
    """`locum` with this interpreter, whatever is first on the PATH."""
    main = "from router.cli import main; main(prog_name='locum')"
    return Command(argv=(sys.executable, "-c", main, *arguments), env=dict(environ))


class GatewayProbe:
    """`/readyz`, and more than it asks: the demo needs both models at once."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __call__(self, timeout_s: float) -> Report:
        try:
            async with httpx.AsyncClient(timeout=timeout_s, trust_env=False) as client:
                answer = await client.get(f"{self._url}/readyz")
                detail = answer.json()
        except (httpx.HTTPError, ValueError) as exc:
            return Report(healthy=False, problem=str(exc) or type(exc).__name__)
        away = [name for name in ("student", "teacher") if not detail.get(name, {}).get("reachable")]
        if away:
            return Report(healthy=True, problem=f"it does not reach the {' and the '.join(away)} yet")
        return Report(healthy=True)


async def all_ready(*processes: Supervisor) -> None:
    """Wait until all serve; the first that dies ends the wait. Raises: ProcessFailed."""
    waits = [asyncio.ensure_future(process.ready()) for process in processes]
    try:
        await asyncio.gather(*waits)
    finally:
        for wait in waits:
            wait.cancel()


def fresh_log(folder: Path, name: str) -> Path:
    """Where a child writes, without what an earlier run left."""
    path = folder / f"{name}.log"
    path.unlink(missing_ok=True)
    return path


def _observer(steps: Steps, step: str, usual: str) -> Observer:
    def show(event: Event) -> None:
        if event.state is State.READY:
            steps.done(step, f"ready after {event.elapsed_s:.0f} s")
        elif event.state is State.STARTING:  # what it logs meanwhile is for those who look into its log
            steps.update(step, f"loading for {event.elapsed_s:.0f} s; usually ready after {usual}")
        elif event.state in (State.FAILED, State.RESTARTING):
            steps.update(step, event.message)

    return show
