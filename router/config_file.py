"""Reads the configuration: one TOML file, unknown keys refused, every problem named by its key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from policies.base import PolicyConfigError
from router.config import Config, ConfigError, WrongKey

MAX_ECHO_CHARACTERS = 80
"""Of a wrong value in an error message."""


def load(path: Path) -> Config:
    """Read and validate a configuration file, the policies' options included.

    Raises:
        ConfigError: with one line for each problem: file, key, what is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(str(path), [f"cannot be read: {exc}"]) from exc
    return parse(text, source=str(path))


def parse(text: str, *, source: str = "configuration") -> Config:
    """Like `load`, from the text of the file."""
    try:
        config = Config.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(source, [f"not TOML: {exc}"]) from exc
    except ValidationError as exc:
        raise ConfigError(source, [describe_problem(error) for error in exc.errors(include_url=False)]) from exc
    try:
        config.routing.build_policies()
    except PolicyConfigError as exc:
        raise ConfigError(source, [f"routing.policies.{exc}"]) from exc
    return config


def describe_problem(error: Any) -> str:
    """One line for an error of pydantic: the dotted key, and what is wrong with its value."""
    location = [str(part) for part in error["loc"]]
    message = str(error["msg"]).removeprefix("Value error, ")
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, WrongKey):
        location.append(cause.key)
    elif error["type"] == "extra_forbidden":
        message = "unknown key; see the configuration table in README.md"
    elif error["type"] == "missing":
        message = "is required"
    elif any(part.endswith("_env") for part in location):
        message = "must be the name of an environment variable (A-Z, 0-9 and _), not the secret itself"
    elif error["type"] not in ("value_error", "model_type") and isinstance(error["input"], str | int | float):
        message += f" (is {repr(error['input'])[:MAX_ECHO_CHARACTERS]})"
    return f"{'.'.join(location)}: {message}" if location else message
