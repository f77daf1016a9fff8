"""What the commands of `locum log` share: how the log is named, and how errors end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from policies.traffic.reader import TrafficError
from policies.traffic.sql import QueryError
from router.config import ConfigError
from router.config_file import load
from router.log.export import ExportError

DEFAULT_CONFIG = Path("locum.toml")
Command = Callable[..., Any]


class WrongInput(click.ClickException):
    exit_code = 2


class Failed(click.ClickException):
    exit_code = 1


def reported(command: Command) -> Command:
    """Errors as one message: exit code 2 for wrong input, 1 when the disk did not play along."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except (TrafficError, QueryError, ExportError, ConfigError) as exc:
            raise WrongInput(str(exc)) from exc
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise Failed(str(exc)) from exc

    return wrapped


FOLDER = click.Path(path_type=Path)
DIR = click.argument("folder", metavar="[DIR]", required=False, type=FOLDER)
CONFIG = click.option(
    "-c", "--config", "config", type=click.Path(path_type=Path, dir_okay=False),
    help="Take the folder from log.dir of this file; default without DIR: locum.toml.",
)  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
MEMORY = click.option(
    "--memory-limit", default="2GB", show_default=True, help="DuckDB spills to a temporary folder beyond this."
)


def resolved(folder: Path | None, config: Path | None) -> Path:
    """The log's folder. Raises: WrongInput, ConfigError."""
    if folder is not None and config is not None:
        raise WrongInput("give DIR or -c, not both")
    if folder is not None:
        return folder
    if config is None and not DEFAULT_CONFIG.exists():
        raise WrongInput("give the folder of the log, or -c with the gateway's configuration")
    directory = load(config or DEFAULT_CONFIG).log.dir
    if not directory:
        raise WrongInput(f"{config or DEFAULT_CONFIG}: log.dir is empty, so there is no log")
    return Path(directory)
