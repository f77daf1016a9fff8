"""Which student a command of `locum student` means: a configuration's, a registry's, a model's, or a URL."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from pydantic import ValidationError

from serving.options import VllmOptions
from serving.registry import Registry

if TYPE_CHECKING:
    from router.config import StudentConfig

FAILED = 1
WRONG_INPUT = 2


@dataclass(frozen=True)
class Target:
    """The student that a configuration or the command line means."""

    base_url: str
    """With a registry: that of the first of the two ports."""
    model: str | None
    """The name it is served under, where that is known."""
    api_key: str | None
    vllm: VllmOptions | None
    """To launch it; None for a URL, and with a registry, whose bundles the gateway launches."""
    registry: Registry | None = None


def target_of(config: Path | None, model: str | None, changes: dict[str, Any]) -> Target:
    """Exits with code 2 and the exact key when the input is wrong."""
    if (config is None) == (model is None):
        wrong_input("give either -c FILE or --model DIR")
    if config is None:
        try:
            options = VllmOptions.model_validate({"model": model, **changes})
        except ValidationError as exc:
            wrong_input(*_problems(exc))
        return Target(options.base_url, options.served_model_name, None, options)
    table = _student_table(config)
    vllm = table.vllm
    if table.registry is not None and vllm is not None:
        if changes:
            wrong_input(
                f"{', '.join(changes)}: the student of {config} comes from a registry; change the configuration"
            )
        return Target(vllm.base_url, table.model, _key(vllm.api_key_env), None, Registry(Path(table.registry)))
    if vllm is not None:
        try:
            options = VllmOptions.model_validate({**vllm.model_dump(exclude_unset=True), **changes})
        except ValidationError as exc:
            wrong_input(*_problems(exc))
        return Target(options.base_url, options.served_model_name, _key(options.api_key_env), options)
    if changes:
        wrong_input(f"{', '.join(changes)}: the student of {config} is a URL; nothing is launched")
    return Target(table.base_url, table.model, _key(table.api_key_env), None)


def registry_of(config: Path | None, folder: Path | None) -> Registry:
    """Exits with code 2 when neither or both are given, or the configuration has no registry."""
    if (config is None) == (folder is None):
        wrong_input("give either --registry DIR or -c FILE")
    if folder is not None:
        if not folder.expanduser().is_dir():
            wrong_input(f"--registry: {folder} is not a folder; `locum train run` makes it with its first bundle")
        return Registry(folder)
    assert config is not None  # noqa: S101 - one of the two is given
    table = _student_table(config)
    if table.registry is None:
        wrong_input(f'student.registry: {config} names no registry; add `registry = "students"` to [student]')
    return Registry(Path(table.registry))


def wrong_input(*problems: str) -> NoReturn:
    stop(WRONG_INPUT, *problems)


def stop(code: int, *problems: str) -> NoReturn:
    """End the command with these errors."""
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    raise SystemExit(code)


def _student_table(config: Path) -> StudentConfig:
    """`[student]`; exits with code 2 when the file is wrong."""
    from router.config import ConfigError  # noqa: PLC0415 - the other ways to name a student work without the gateway
    from router.config_file import load  # noqa: PLC0415

    try:
        return load(config).student
    except ConfigError as exc:
        wrong_input(*exc.problems)


def _key(variable: str | None) -> str | None:
    return os.environ.get(variable) if variable else None


def _problems(exc: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors(include_url=False)]
