"""`locum log quality` and `locum log drift`: what a log says about the answers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
from rich.console import Console

from policies.artefact import ArtefactError
from policies.drift import Monitor, Sizes
from policies.drift_summaries import Summary
from router.config.drift import DriftConfig
from router.config_file import load
from router.log import drift as logged_drift
from router.log.options import CONFIG, DEFAULT_CONFIG, DIR, JSON, WrongInput, reported, resolved
from router.log.quality import collect, show
from router.log.times import moment
from router.quality.drift import REFERENCE_FILE
from router.quality.drift_state import ReferenceFile, read_reference, write_reference


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
    options, default_file = _configured(folder, config)
    tag, path = tag or options.tag, reference_file or default_file
    buckets, name = logged_drift.count(resolved(folder, config), tag=tag, student=student, since_s=since)
    if set_reference:
        _set_reference(path, buckets, name, tag)
        return
    sizes = Sizes(
        reference_requests=options.reference_requests, reference_s=options.reference_s,
        window_requests=options.window_requests, window_labels=options.window_labels,
    )  # fmt: skip
    monitor = Monitor(student=name)
    found = _read(path, required=reference_file is not None)
    if found is not None and found.student == name and found.tag == tag:
        monitor.use(found.reference, found.fixed_s)
    elif reference_file is not None:
        raise WrongInput(f"{path}: is of student {found and found.student!r} and tag {found and found.tag!r}")
    figures = logged_drift.figures(monitor, sizes, logged_drift.compare(buckets, monitor, sizes))
    if as_json:
        click.echo(json.dumps(figures, indent=2))
    else:
        logged_drift.show(figures, Console(soft_wrap=True, highlight=False))
    if figures["alarms"]:
        raise SystemExit(1)


def _configured(folder: Path | None, config: Path | None) -> tuple[DriftConfig, Path | None]:
    """The options of the file that names the log, and where its gateway keeps the reference. Raises: ConfigError."""
    if folder is not None or (config is None and not DEFAULT_CONFIG.exists()):
        return DriftConfig(reference_s=0.0), None
    loaded = load(config or DEFAULT_CONFIG)
    return loaded.quality.drift, Path(loaded.admin.dir) / REFERENCE_FILE


def _read(path: Path | None, *, required: bool) -> ReferenceFile | None:
    try:
        found = read_reference(path) if path is not None else None
    except ArtefactError as exc:
        raise WrongInput(str(exc)) from exc
    if found is None and required:
        raise WrongInput(f"{path}: there is no such file; --set-reference writes one")
    return found


def _set_reference(path: Path | None, buckets: logged_drift.Buckets, student: str, tag: str | None) -> None:
    if path is None:
        raise WrongInput("--set-reference needs --reference FILE, or -c")
    reference = Summary()
    for bucket in buckets.in_order():
        reference.merge(bucket.summary)
    if not reference.n:
        raise WrongInput("the log holds no answered request of this time and student")
    write_reference(path, ReferenceFile(student=student, fixed_s=time.time(), tag=tag, reference=reference))
    click.echo(f"{reference.n:,} requests of student {student} are the reference now: {path}", err=True)
