"""`locum log quality` and `locum log drift`: what a log says about the answers."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from router.log.options import CONFIG, DIR, JSON, WrongInput, reported, resolved
from router.log.quality import collect, show
from router.log.times import moment

WIDTH = 120
"""Characters of a table, also where no terminal says how wide it is."""


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
        show(figures, Console(soft_wrap=True, highlight=False, width=WIDTH))


@click.command("drift")
@DIR
@CONFIG
@click.option("--since", callback=moment, help="Only requests since 90m, 12h, 7d ago, or since a date.")
@click.option("--student", help="Whose answers are compared, a bundle id; default: that of the newest record.")
@click.option("--tag", help="Key of a tag whose values are compared by themselves; default: quality.drift.tag of -c.")
@click.option(
    "--reference", "reference_file", type=click.Path(path_type=Path, dir_okay=False),
    help="Compare with this file; default: the gateway's own where -c names one, else the first requests.",
)  # fmt: skip
@click.option(
    "--set-reference", is_flag=True,
    help="Make the requests the reference: write them to --reference; gateways of -c take it up within a minute.",
)  # fmt: skip
@JSON
@reported
def drift(
    folder: Path | None, config: Path | None, since: float, student: str | None, tag: str | None,
    reference_file: Path | None, set_reference: bool, as_json: bool,
) -> None:  # fmt: skip
    """Whether inputs, answers or calibration have changed; exit code 1 when an alarm rings.

    The last requests are compared with a reference. An alarm needs a change that matters and evidence that chance
    does not give in a month of looks.

    \b
    Examples:
      locum log drift traffic --tag team
      locum log drift -c locum.toml --since 24h --set-reference
    """
    from router.log.drift_report import Ask, answer  # noqa: PLC0415 - not for every command

    ask = Ask(since_s=since, student=student, tag=tag, reference_file=reference_file)
    raise SystemExit(answer(ask, folder, config, set_reference=set_reference, as_json=as_json))
