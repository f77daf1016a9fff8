"""`locum log quality`: what the graded sample says about the answers."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from router.log.options import CONFIG, DIR, JSON, WrongInput, reported, resolved
from router.log.quality import collect, show
from router.log.times import moment


@click.command("quality")
@DIR
@CONFIG
@click.option("--by", help="Split by route, student, reason, grader or tag:KEY.")
@click.option("--since", callback=moment, help="Only requests since 90m, 12h, 7d ago, or since a date.")
@JSON
@reported
def quality(folder: Path | None, config: Path | None, by: str | None, since: float, as_json: bool) -> None:
    """How good the answers are, and what routing costs against all-teacher, with 95 % intervals.

    Grades of shadow requests count 1 / propensity times, so that the estimates hold for all traffic. Where labels are
    too few it says how many are missing.

    \b
    Examples:
      locum log quality traffic --since 7d
      locum log quality -c locum.toml --by tag:team --json
    """
    try:
        estimates = collect(resolved(folder, config), by=by, since_s=since)
    except ValueError as exc:
        raise WrongInput(f"--{exc}") from exc
    figures = estimates.as_json()
    if as_json:
        click.echo(json.dumps(figures, indent=2))
    else:
        show(figures, Console(soft_wrap=True, highlight=False))
