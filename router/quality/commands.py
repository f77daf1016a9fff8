"""`locum quality`: ask the regression set by hand."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from policies.base import Route
from policies.quality.regression import RegressionError, Round
from router.app import Parts
from router.config import Config, ConfigError
from router.config.drift import RegressionConfig
from router.config_file import load
from router.quality.regression import Runner

DEFAULT_CONFIG = Path("locum.toml")


class WrongInput(click.ClickException):
    exit_code = 2


@click.group()
def quality() -> None:
    """Measure how good the models' answers are. Estimates from live traffic: `locum log quality`."""


@quality.command("regression")
@click.option(
    "-c", "--config", "path", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_CONFIG,
    show_default=True, help="The gateway's configuration.",
)  # fmt: skip
@click.option("--route", type=click.Choice(["student", "teacher"]), default="student", show_default=True)
@click.option(
    "--file", type=click.Path(path_type=Path, dir_okay=False),
    help="The set, JSON Lines; default: quality.regression.file.",
)  # fmt: skip
@click.option("--min-score", type=click.FloatRange(0, 1), help="Exit code 1 when the score is surely below.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def regression(path: Path, route: Route, file: Path | None, min_score: float | None, as_json: bool) -> None:
    """Ask a model the labelled set once, as the gateway does on its schedule; nothing is kept.

    Exit code 1: the 95 % interval of the score lies below --min-score, or no item was answered.

    \b
    Examples:
      locum quality regression -c locum.toml
      locum quality regression --route teacher --file held-out.jsonl --min-score 0.9 --json
    """
    try:
        config = load(path)
        done = asyncio.run(_round(config, _options(config, file), route))
    except (ConfigError, RegressionError) as exc:
        raise WrongInput(str(exc)) from exc
    score = done.score
    if as_json:
        click.echo(json.dumps(done.as_json(), indent=2))
    elif score is None:
        click.echo(f"the {route} answered none of {done.failed} items")
    else:
        if done.left_out:
            click.echo(f"left out: {done.left_out} items that {done.model} was trained on", err=True)
        click.echo(
            f"{done.model}: {len(done.right)} of {score.n} right: {score.value:.3f} "
            f"({score.low:.3f} to {score.high:.3f} at 95 %), {done.failed} without an answer, {done.duration_s:.0f} s"
        )
    if score is None or (min_score is not None and score.high < min_score):
        raise SystemExit(1)


def _options(config: Config, file: Path | None) -> RegressionConfig:
    """Raises: RegressionError."""
    configured = config.quality.regression
    if file is not None:
        return (configured or RegressionConfig(file="-")).model_copy(update={"file": str(file)})
    if configured is None:
        raise RegressionError("give --file, or set quality.regression.file")
    return configured


async def _round(config: Config, options: RegressionConfig, route: Route) -> Round:
    """Raises: RegressionError, ConfigError."""
    parts = Parts(config)
    registry = config.student.registry
    runner = Runner(
        options, generations=parts.generations, teacher=parts.teacher, metrics=parts.metrics, registry=registry
    )
    return await runner.round(route)
