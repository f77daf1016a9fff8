"""`locum serve`, `locum check`, `locum explain`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from policies.chain import Evaluation
from router import logs, server
from router.app import Background, Install, Parts, build_app
from router.chat import ChatRequest
from router.config import Config, ConfigError
from router.config_file import load
from router.errors import LocumError
from router.generations import Generation
from router.log import background
from router.workers.child import WorkerRefused
from router.workers.parent import Workers
from serving.bluegreen import StudentSwitch
from serving.errors import ServingError, describe_log
from serving.launch import detect_build, resolve_python
from serving.options import VllmOptions
from serving.registry import Registry
from serving.student import StudentProcess
from serving.supervisor import Event, State

logger = logging.getLogger(__name__)

WRONG_INPUT = 2
CONFIG_OPTION = click.option(
    "-c", "--config", "path", required=True, type=click.Path(path_type=Path), help="The configuration, a TOML file."
)


@click.command()
@CONFIG_OPTION
@click.option("--log-level", default="info", type=click.Choice(["debug", "info", "warning", "error"]))
def serve(path: Path, log_level: str) -> None:
    """Run the gateway (and the student, with [student.vllm]).

    Example: locum serve -c locum.toml
    """

    config = _load(path)
    logs.log_to_stderr(log_level, config.server.log_format)
    unset = config.unset_secrets()
    if unset:
        _wrong_input(*unset)
    try:
        beside = _beside(config, path)
        alone = build_app(config, background=beside, path=path) if config.server.workers == 1 else None
        listener = server.bind(config.server)
    except (ConfigError, ServingError, server.CannotListen) as exc:
        _wrong_input(str(exc))
    if alone is not None:
        served = server.serve(alone, config.server, listener, _announce)
    else:  # the workers load the models; what they cannot use they report
        try:
            served = asyncio.run(Workers(config, path, beside, log_level=log_level).run(listener, _announce))
        except WorkerRefused as exc:
            _wrong_input(str(exc))
    if not served:
        raise SystemExit(1)


def _announce(url: str) -> None:
    click.echo(f"Locum listens on {url}", err=True)


def _beside(config: Config, path: Path) -> Background | None:
    """What runs once a gateway, however many workers it has: the student, and the log's compaction.

    Raises: ServingError, ConfigError.
    """
    student = _student(config)
    if not (config.log.dir and config.log.compact_every_s):
        return student
    background.check(config.log)

    @asynccontextmanager
    async def both(install: Install) -> AsyncIterator[None]:
        async with AsyncExitStack() as running:
            await running.enter_async_context(background.BackgroundCompaction(config.log, path))
            if student is not None:
                await running.enter_async_context(student(install))
            yield

    return both


def _student(config: Config) -> Background | None:
    """The supervised student of [student.vllm], checked but not started; with a registry whatever is promoted there.

    Raises: ServingError.
    """
    options = config.student.vllm
    if config.student.registry is not None and options is not None:
        detect_build(resolve_python(options.python))
        registry, settings = Registry(Path(config.student.registry)), options
        return lambda install: StudentSwitch(registry, settings, install, observer=_log_student)
    if not isinstance(options, VllmOptions):
        return None
    process = StudentProcess(options, observer=_log_student)
    return lambda _: process


def _log_student(event: Event) -> None:
    trouble = event.state in (State.RESTARTING, State.FAILED)
    logger.log(logging.WARNING if trouble else logging.INFO, "student: %s", event.message)
    if trouble and event.log_tail:
        logger.warning("student: the end of its log:\n%s", "\n".join(describe_log(event.log_tail)))


@click.command()
@CONFIG_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print the resolved configuration as JSON.")
def check(path: Path, as_json: bool) -> None:
    """Validate a configuration and print it with every default, without secrets.

    Exit code 2 and the exact key when something is wrong. Example: locum check -c locum.toml
    """

    config = _load(path)
    try:
        parts = Parts(config, environ=_environment(config))
    except ConfigError as exc:
        _wrong_input(str(exc))
    resolved = config.model_dump(mode="json", exclude_none=True)
    if as_json:
        click.echo(json.dumps(resolved, indent=2))
    else:
        for line in _toml_lines(resolved):
            click.echo(line)
    for warning in (*config.unset_secrets(), *config.warnings()):
        click.echo(f"warning: {warning}", err=True)
    parts.quality.certificates.recall()
    for standing in parts.generations.current.decider.chain.standings:
        click.echo(f"{'note' if standing.valid else 'warning'}: {standing.describe()}", err=True)


def _environment(config: Config) -> dict[str, str]:
    """The environment, with stand-ins for the named secrets that are unset: checking needs none of them."""
    named = {name: "checked=placeholder-only" for _, name in config.secret_env_names()}
    return {**named, **{name: os.environ[name] for name in named if os.environ.get(name)}}


@click.command()
@CONFIG_OPTION
@click.option("--tenant", default="default", show_default=True, help="Decide as for this tenant.")
@click.option("--json", "as_json", is_flag=True, help="Print the decision and all votes as JSON.")
@click.argument("request_file", type=click.File("rb"))
def explain(path: Path, tenant: str, as_json: bool, request_file: BinaryIO) -> None:
    """Show the decision on a request and every policy's vote, without calling a backend for an answer.

    The student's window is asked from the backend if the configuration does not state it.
    Example: locum explain -c locum.toml request.json
    """

    config = _load(path)
    try:
        parts = Parts(config, environ=_environment(config))
        request = ChatRequest.parse(request_file.read(), [])
        evaluation = asyncio.run(_explained(parts, request, tenant))
    except ConfigError as exc:
        _wrong_input(str(exc))
    except LocumError as exc:
        _wrong_input(f"{request_file.name}: {exc}")
    if as_json:
        click.echo(
            msgspec.json.format(
                msgspec.json.encode({"decision": evaluation.decision, "votes": evaluation.votes}), indent=2
            )
        )
        return
    _print_evaluation(evaluation)


async def _explained(parts: Parts, request: ChatRequest, tenant: str) -> Evaluation:
    generation = _promoted(parts) or parts.generations.current
    if generation.student.window_tokens is None:
        async with parts.prober as prober:
            await prober.probe(generation.student)
    return await generation.decider.decide(request, tenant=tenant, every_vote=True)


def _promoted(parts: Parts) -> Generation | None:
    """With a registry: its current bundle, as a gateway would serve it. Raises: ConfigError."""
    if parts.config.student.registry is None:
        return None
    registry = Registry(Path(parts.config.student.registry))
    try:
        bundle = registry.current()
        return parts.students.of_bundle(bundle, registry.folder(bundle.bundle_id)) if bundle else None
    except ServingError as exc:
        raise ConfigError("student.registry", [str(exc)]) from exc


def _print_evaluation(evaluation: Evaluation) -> None:

    decision = evaluation.decision
    table = Table("policy", "vote", "reason", "score", "threshold", box=box.SIMPLE_HEAD, pad_edge=False)
    for vote in evaluation.votes:
        decides = vote.policy == decision.policy and not vote.shadow
        table.add_row(
            f"{vote.policy} (shadow)" if vote.shadow else vote.policy,
            (vote.route or "abstains") + (" (decides)" if decides else ""),
            vote.reason,
            "-" if vote.score is None else f"{vote.score:.3f}",
            "-" if vote.threshold is None else f"{vote.threshold:.3f}",
        )
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(
        f"route [bold]{decision.route}[/bold], reason {decision.reason}, policy {decision.policy}, "
        f"version {decision.version}" + (f", propensity {decision.propensity:g}" if decision.propensity < 1.0 else "")
    )


def _load(path: Path) -> Config:
    try:
        return load(path)
    except ConfigError as exc:
        _wrong_input(str(exc))


def _wrong_input(*problems: str) -> NoReturn:
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    raise SystemExit(WRONG_INPUT)


def _toml_lines(table: dict[str, Any], prefix: str = "") -> list[str]:
    """A resolved configuration as TOML."""
    plain = {k: v for k, v in table.items() if not isinstance(v, dict) and not _is_table_list(v)}
    lines = [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in plain.items()]
    for key, value in table.items():
        name = f"{prefix}{_toml_key(key)}"
        if isinstance(value, dict):
            lines += ["", f"[{name}]", *_toml_lines(value, f"{name}.")]
        elif _is_table_list(value):
            for item in value:
                lines += ["", f"[[{name}]]", *_toml_lines(item, f"{name}.")]
    return lines


def _is_table_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, float) else repr(value)
