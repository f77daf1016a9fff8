"""`locum replay`: a policy document tried on logged traffic."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from policies.base import StudentDefaults
from router.config import Config
from router.config_file import load
from router.log.options import Failed, WrongInput, reported
from router.log.times import moment

WIDTH = 120
"""Characters of a table, also where no terminal says how wide it is."""
_FILE = click.Path(path_type=Path, dir_okay=False)
MAX_DEFAULT_JOBS = 4


def default_jobs() -> int:
    return min(MAX_DEFAULT_JOBS, os.cpu_count() or 1)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--policy", "policy", type=_FILE, help="The candidate: a policy document, JSON (`locum policy get`), or "
              "a configuration file, TOML.")  # fmt: skip
@click.option("--baseline", "-c", "--config", "baseline", type=_FILE, help="What it is compared with: "
              "what was in force, a document or a configuration file; default: the default policies.")  # fmt: skip
@click.option("--registry", type=click.Path(path_type=Path, file_okay=False), help="Calibrator and threshold of its "
              "current bundle, for a cascade without its own.")  # fmt: skip
@click.option("--student", help="Bundle id whose records count; default: that of the newest record.")
@click.option("--since", callback=moment, help="Only requests since 90m, 12h, 7d ago, or since a date.")
@click.option("--until", callback=moment, help="Only requests before that.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Only requests with this tag; repeatable.")
@click.option("--sweep", metavar="POLICY.OPTION=A:B:N", help="Also at N values of an option of the "
              "candidate, or of the baseline when there is no candidate, from A to B.")  # fmt: skip
@click.option("--jobs", default=default_jobs, show_default="the cores, up to 4", type=click.IntRange(min=1),
              help="Processes that read the log.")  # fmt: skip
@click.option("--estimator", default="dr", show_default=True, type=click.Choice(["dr", "snips", "ips"]))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as POST /admin/replay answers.")
@reported
def replay(folder: Path, as_json: bool, tags: tuple[str, ...], sweep: str | None, jobs: int, **given: Any) -> None:
    """Evaluate policy documents on the requests in DIR, a traffic log: share, cost, latency, quality with intervals.

    \b
    Examples:
      locum replay traffic --policy stricter.json --baseline policy.json
      locum replay traffic -c locum.toml --sweep cascade.threshold=0.1:0.6:11
      locum replay traffic --policy p.json --since 2026-11-01 --tag team=docs --json

    \b
    Exit codes: 0 estimated; 1 nothing to replay, or the candidate's quality cannot
    be estimated from this log; 2 wrong input.
    """
    try:
        from router.replay import output, session  # noqa: PLC0415 - numpy
    except ModuleNotFoundError as exc:
        raise WrongInput(f"`locum replay` needs {exc.name}: pip install 'locum[loop]'") from exc
    question = session.Question(
        folder=str(folder),
        active=routing_of(given["baseline"]) if given["baseline"] is not None else {},
        candidate=routing_of(given["policy"]) if given["policy"] is not None else None,
        student=_student(given["registry"]),
        only_student=given["student"],
        since_s=given["since"] or None,
        until_s=given["until"] or None,
        tags=dict(_tag(each) for each in tags),
        sweep=_sweep(sweep) if sweep is not None else None,
        estimator=given["estimator"],
    )
    with Progress(
        TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        task = progress.add_task("reading the log")
        asked = session.Session(
            jobs=jobs, progress=lambda count: progress.update(task, description=f"{count:,} records read")
        )
        try:
            answer = asked.answer(question)
        except session.WRONG as exc:
            raise WrongInput(str(exc)) from exc
        except session.EMPTY as exc:
            raise Failed(str(exc)) from exc
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(answer), indent=2))
    else:
        baseline = "baseline" if given["baseline"] is not None else "default policies"
        output.show(answer, Console(soft_wrap=True, highlight=False, width=WIDTH), baseline=baseline, sweep=sweep)
    if (answer["candidate"] or answer["baseline"])["quality"] is None:
        raise SystemExit(1)


def routing_of(path: Path) -> dict[str, Any]:
    """`routing` of a document (JSON, as PUT /admin/policy takes it or `locum policy get` writes it) or of a TOML file.

    Raises: WrongInput, ConfigError.
    """
    if path.suffix == ".toml":
        config: Config = load(path)
        return config.routing.model_dump(mode="json")
    try:
        document = json.loads(path.read_bytes())
    except OSError as exc:
        raise WrongInput(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise WrongInput(f"{path}: is not JSON: {exc}") from exc
    if isinstance(document, dict) and isinstance(document.get("document"), dict):
        document = document["document"]
    if not isinstance(document, dict) or not isinstance(document.get("routing"), dict):
        raise WrongInput(f"{path}: is no policy document: it has no table `routing`")
    routing: dict[str, Any] = document["routing"]
    return routing


def _student(registry: Path | None) -> StudentDefaults | None:
    """What the current bundle brings along. Raises: WrongInput."""
    if registry is None:
        return None
    from serving.errors import ServingError  # noqa: PLC0415
    from serving.registry import Registry  # noqa: PLC0415

    try:
        found = Registry(registry)
        bundle = found.current()
    except ServingError as exc:
        raise WrongInput(f"--registry: {exc}") from exc
    if bundle is None:
        raise WrongInput(f"--registry: {registry} has no current bundle; promote one")
    folder = found.folder(bundle.bundle_id)
    return StudentDefaults(
        bundle_id=bundle.bundle_id,
        calibrator=folder / bundle.calibrator if bundle.calibrator else None,
        certificate=folder / bundle.certificate if bundle.certificate else None,
        cascade_threshold=bundle.cascade_threshold,
        model_sha256=bundle.model_sha256,
    )


def _tag(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise WrongInput(f"--tag: {text!r} is not KEY=VALUE")
    return key, value


def _sweep(text: str) -> Any:
    """Raises: WrongInput."""
    from router.replay.session import MAX_VALUES, Sweep  # noqa: PLC0415 - numpy

    name, _, values = text.partition("=")
    policy, _, option = name.rpartition(".")
    try:
        first, last, count = values.split(":")
        low, high, steps = float(first), float(last), int(count)
    except ValueError as exc:
        raise WrongInput(f"--sweep: {text!r} is not POLICY.OPTION=A:B:N, such as cascade.threshold=0.1:0.6:11") from exc
    if not policy or not option or not 2 <= steps <= MAX_VALUES:
        raise WrongInput(f"--sweep: {text!r} is not POLICY.OPTION=A:B:N with N from 2 to {MAX_VALUES}")
    step = (high - low) / (steps - 1)
    return Sweep(policy=policy, option=option, values=[round(low + number * step, 9) for number in range(steps)])
