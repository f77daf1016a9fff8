"""What `locum log drift` does: count, compare with a reference or set one, and tell."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console

from policies.artefact import ArtefactError
from policies.quality.drift import Monitor, Sizes
from policies.quality.drift_summaries import Summary
from router.config.drift import DriftConfig
from router.config_file import load
from router.log.drift import Buckets, compare, count, figures, show
from router.log.options import DEFAULT_CONFIG, WrongInput, resolved
from router.quality.drift import REFERENCE_FILE
from router.quality.drift_state import ReferenceFile, read_reference, write_reference


class Ask(NamedTuple):
    """The options of the command."""

    since_s: float
    student: str | None
    tag: str | None
    reference_file: Path | None


def answer(ask: Ask, folder: Path | None, config: Path | None, *, set_reference: bool, as_json: bool) -> int:
    """The exit code: 1 when an alarm rings. Raises: WrongInput, ConfigError, TrafficError."""
    options, default_file = _configured(folder, config)
    tag, path = ask.tag or options.tag, ask.reference_file or default_file
    buckets, student = count(resolved(folder, config), tag=tag, student=ask.student, since_s=ask.since_s)
    if set_reference:
        _set_reference(path, buckets, student, tag)
        return 0
    sizes = Sizes(
        reference_requests=options.reference_requests,
        reference_s=options.reference_s,
        window_requests=options.window_requests,
        window_labels=options.window_labels,
    )
    monitor = Monitor(student=student)
    found = _read(path, required=ask.reference_file is not None)
    if found is not None and found.student == student and found.tag == tag:
        monitor.use(found.reference, found.fixed_s)
    elif found is not None and ask.reference_file is not None:
        raise WrongInput(f"{path}: is of student {found.student!r} and tag {found.tag!r}, not {student!r} and {tag!r}")
    told = figures(monitor, sizes, compare(buckets, monitor, sizes))
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        show(told, Console(soft_wrap=True, highlight=False, width=120))
    return 1 if told["alarms"] else 0


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


def _set_reference(path: Path | None, buckets: Buckets, student: str, tag: str | None) -> None:
    if path is None:
        raise WrongInput("--set-reference needs --reference FILE, or -c")
    reference = Summary()
    for bucket in buckets.in_order():
        reference.merge(bucket.summary)
    if not reference.n:
        raise WrongInput("the log holds no answered request of this time and student")
    write_reference(path, ReferenceFile(student=student, fixed_s=time.time(), tag=tag, reference=reference))
    click.echo(f"{reference.n:,} requests of student {student} are the reference now: {path}", err=True)
