"""The teacher's API (vLLM), the gateway (`locum serve`) and the commands of `locum`, as a user runs them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

from serving.demo.settings import free_port
from serving.demo.stack import CHILD_STOP_TIMEOUT_S, fresh_log, gateway_command, locum_command
from serving.models import prepare_teacher
from serving.options import VllmOptions
from serving.probe import HttpProbe
from serving.process import GuardedLauncher
from serving.student import StudentProcess
from serving.supervisor import Event, Observer, Runtime, Supervisor, Timing
from serving.teacher import TeacherOptions, TeacherProcess
from trainer.claim.settings import TEACHER_USD_PER_1M_INPUT, TEACHER_USD_PER_1M_OUTPUT, Settings
from trainer.stage import Progress

WINDOW_TOKENS = 512
START_TIMEOUT_S = 600.0
EMPTY: Mapping[str, str] = MappingProxyType({})


class CommandFailed(RuntimeError):
    """A command of `locum` ended with another exit code than was asked for."""


@asynccontextmanager
async def running_model(
    model: Path, name: str, cores: Sequence[int], settings: Settings, progress: Progress, port: int | None = None
) -> AsyncIterator[str]:
    """vLLM with one model, ready. Yields its base URL. Raises: ModelError, LaunchError, ProcessFailed."""
    options = VllmOptions(
        model=str(model),
        served_model_name=name,
        port=port or free_port(),
        python=settings.serving_python,
        context_window_tokens=WINDOW_TOKENS,
        max_num_seqs=32,
        max_logprobs=max(20, settings.size.top_k),
        cpu_omp_threads_bind=",".join(map(str, cores)),
        enable_prefix_caching=False,
        shutdown_timeout_s=CHILD_STOP_TIMEOUT_S,
        max_restarts=1,
        log_file=str(fresh_log(settings.work, name)),
    )
    async with StudentProcess(options, observer=_observer(name, progress)) as process:
        await process.ready()
        yield process.base_url


@asynccontextmanager
async def running_judge(settings: Settings, progress: Progress) -> AsyncIterator[str | None]:
    """llama.cpp with the pinned 1.5 B model on all cores, which nobody else uses meanwhile; None without a sample."""
    if not settings.size.judge_sample:
        yield None
        return
    model = await asyncio.to_thread(prepare_teacher, lambda message: progress(0, None, message))
    options = TeacherOptions(
        model=str(model.path),
        served_model_name="judge",
        port=free_port(),
        python=settings.serving_python,
        cpu_cores=settings.cores,
        slots=2,
        context_window_tokens=2048,
        log_file=str(fresh_log(settings.work, "judge")),
    )
    async with TeacherProcess(options, observer=_observer("judge", progress)) as process:
        await process.ready()
        yield process.base_url


@asynccontextmanager
async def running_gateway(settings: Settings, teacher_url: str, progress: Progress) -> AsyncIterator[str]:
    """`locum serve` with the registry's student. Yields its URL; the student may still be starting."""
    port = free_port()
    config = settings.work / "locum.toml"
    config.write_text(gateway_toml(settings, teacher_url, port), encoding="utf-8")
    async with served(config, port, progress) as url:
        yield url


@asynccontextmanager
async def served(
    config: Path, port: int, progress: Progress, secrets: Mapping[str, str] = EMPTY, api_key: str | None = None
) -> AsyncIterator[str]:
    """`locum serve` with a configuration that listens on `port`; its log lies beside the file. Yields its URL.

    Args:
        secrets: variables of its environment that the configuration names.
        api_key: where it asks for one, the key to look with whether it is there.
    """
    url = f"http://127.0.0.1:{port}"
    process = Supervisor(
        "gateway",
        gateway_command(config, {**os.environ, **secrets}),
        Timing(startup_timeout_s=START_TIMEOUT_S, shutdown_timeout_s=CHILD_STOP_TIMEOUT_S, max_restarts=0),
        Runtime(
            launcher=GuardedLauncher(log_file=fresh_log(config.parent, "gateway")),
            probe=HttpProbe(f"{url}/v1", model="auto", api_key=api_key),
            observer=_observer("gateway", progress),
        ),
    )
    async with process:
        await process.ready()
        yield url


def gateway_toml(settings: Settings, teacher_url: str, port: int) -> str:
    """The gateway's configuration: the registry's student, the teacher, and the cascade."""
    ports = free_port()
    lines = [
        "# Written by `make claim`.",
        "[server]",
        f"port = {port}",
        "",
        "[student]",
        f"registry = {json.dumps(str(settings.work / 'students'))}",
        "capture_logprobs = true",
        "",
        "[student.vllm]",
        f"port = {ports}",
        *([f"python = {json.dumps(settings.serving_python)}"] if settings.serving_python else []),
        f"context_window_tokens = {WINDOW_TOKENS}",
        "max_num_seqs = 32",
        "enable_prefix_caching = false",
        f"cpu_omp_threads_bind = {json.dumps(','.join(map(str, settings.student_cores)))}",
        f"shutdown_timeout_s = {CHILD_STOP_TIMEOUT_S}",
        f"log_file = {json.dumps(str(settings.work / 'student.log'))}",
        "",
        "[teacher]",
        f"base_url = {json.dumps(teacher_url)}",
        'model = "teacher"',
        "capture_token_ids = true",
        'distillation = "allowed"',
        "context_window_tokens = 512",
        f"price_usd_per_1m_input_tokens = {TEACHER_USD_PER_1M_INPUT}",
        f"price_usd_per_1m_output_tokens = {TEACHER_USD_PER_1M_OUTPUT}",
        "",
        "[[routing.policies]]",
        'type = "cascade"',
        "",
        "[log]",
        f"dir = {json.dumps(str(settings.work / 'traffic'))}",
    ]
    return "\n".join(lines) + "\n"


async def locum(*arguments: str, expected: tuple[int, ...] = (0,)) -> str:
    """Run a command of `locum` to its end; its messages go to this terminal. It does not outlive this process.

    Returns:
        Its standard output.
    Raises:
        CommandFailed: another exit code than `expected`.
    """
    process = await asyncio.create_subprocess_exec(
        *GuardedLauncher().guarded(locum_command(os.environ, *arguments)),
        stdin=asyncio.subprocess.PIPE,  # the guard takes its end for ours
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None  # noqa: S101 - for the type checker
    try:
        output = await process.stdout.read()
        code = await process.wait()
    except asyncio.CancelledError:
        process.terminate()
        await process.wait()
        raise
    if code not in expected:
        tail = output.decode(errors="replace")[-2000:]
        raise CommandFailed(f"locum {' '.join(arguments)} ended with {code}\n{tail}")
    return output.decode()


def _observer(name: str, progress: Progress) -> Observer:
    def show(event: Event) -> None:
        progress(0, None, f"{name} {event.state}: {event.message}"[:100])

    return show
