"""`locum log compact`, `prune` and `forget`: what changes the files of the traffic log."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from policies.traffic.folder import describe
from policies.traffic.stores import StoreError
from router.config import LogConfig
from router.config_file import load
from router.log.options import CONFIG, DEFAULT_CONFIG, DIR, JSON, MEMORY, WrongInput, reported, resolved

if TYPE_CHECKING:
    from router.log.compaction import Compaction
    from router.log.erasure import Erasure
    from router.log.retention import Pruned

DAY_S = 86_400.0
ROTATION_WAIT_S = 5.0


def say(message: str) -> None:
    click.echo(message, err=True)


def _quiet(message: str) -> None:
    """Progress that nobody waits for."""


@click.command("compact")
@DIR
@CONFIG
@MEMORY
@click.option("--rotate", is_flag=True, help="First ask running gateways to begin new segments.")
@click.option("--scheduled", is_flag=True, help="As the gateway does it by itself: --rotate, one thread, retention.")
@JSON
@reported
def compact_command(
    folder: Path | None, config: Path | None, memory_limit: str, rotate: bool, scheduled: bool, as_json: bool
) -> None:
    """Turn segments that no gateway writes any more into Parquet, one file a day, and remove them.

    The files go to log.store. Safe beside running gateways and at any crash. Segments with damage or doubled records
    stay as they are, and the exit code is 1. Example: locum log compact traffic --rotate
    """
    from router.log.compaction import compact  # noqa: PLC0415 - not for every command
    from router.log.segment_rewriting import rotate as ask_for_new_segments  # noqa: PLC0415
    from router.log.workspace import LOCK_WAIT_S  # noqa: PLC0415

    path, settings = _described(folder, config)
    threads = 1 if scheduled else None
    if rotate or scheduled:
        ask_for_new_segments(path, [entry.name for entry in path.glob("*.seg")], ROTATION_WAIT_S)
    progress = _quiet if scheduled else say
    lock_wait_s = LOCK_WAIT_S if scheduled else 0.0
    done = compact(path, progress=progress, memory_limit=memory_limit, threads=threads, lock_wait_s=lock_wait_s)
    if as_json:
        click.echo(json.dumps(_compacted_json(done), indent=2))
    else:
        click.echo(
            f"{done.records:,} records of {done.segments} segments ({done.segment_bytes:,} bytes) are in "
            f"{len(done.files)} files ({sum(file.size_bytes for file in done.files):,} bytes) now; "
            f"{len(done.in_use)} segments are being written"
        )
    for name in done.left_alone:
        say(f"left alone: {name} has damaged or doubled records; `locum log verify` names them")
    if scheduled and settings is not None and settings.retention_days:
        from router.log.retention import prune  # noqa: PLC0415

        before_s = time.time() - settings.retention_days * DAY_S
        _tell_pruned(prune(path, before_s, progress=progress, memory_limit=memory_limit, threads=threads))
    if done.left_alone:
        raise SystemExit(1)


def _compacted_json(done: Compaction) -> dict[str, Any]:
    return {
        "records": done.records, "segments": done.segments, "segment_bytes": done.segment_bytes,
        "forgotten": done.forgotten, "files": [file.name for file in done.files],
        "file_bytes": sum(file.size_bytes for file in done.files), "in_use": done.in_use, "left_alone": done.left_alone,
    }  # fmt: skip


@click.command("prune")
@DIR
@CONFIG
@click.option("--days", type=click.FloatRange(min=0, max=36_500), help="Default: log.retention_days of -c.")
@MEMORY
@JSON
@reported
def prune_command(
    folder: Path | None, config: Path | None, days: float | None, memory_limit: str, as_json: bool
) -> None:
    """Remove records older than a number of days, to the second, with their feedback and shadow answers.

    Example: locum log prune traffic --days 90
    """
    from router.log.retention import prune  # noqa: PLC0415 - not for every command

    path, settings = _described(folder, config)
    if days is None:
        days = settings.retention_days if settings is not None else 0
        if not days:
            raise WrongInput("give --days, or -c with a configuration that has log.retention_days")
    done = prune(path, time.time() - days * DAY_S, progress=say, memory_limit=memory_limit)
    if as_json:
        report = {
            "before": datetime.fromtimestamp(done.before_s, UTC).isoformat(), "removed": dict(done.removed),
            "dropped": done.dropped, "rewritten": done.rewritten, "segments": done.segments, "in_use": done.in_use,
        }  # fmt: skip
        click.echo(json.dumps(report, indent=2))
    else:
        _tell_pruned(done)


def _tell_pruned(done: Pruned) -> None:
    before = datetime.fromtimestamp(done.before_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    click.echo(
        f"removed what was older than {before}: {_counted(done.removed)}; {len(done.dropped)} compacted files dropped, "
        f"{len(done.rewritten)} rewritten, {len(done.segments)} segments; {len(done.in_use)} segments are being written"
    )


@click.command("forget")
@DIR
@CONFIG
@click.option("--subject", help="The person, as requests name them: safety_identifier, user or metadata.user_id.")
@click.option("--tenant", help="Everything of a tenant.")
@click.option("--session", help="A conversation.")
@click.option("--decision-id", "decision_ids", multiple=True, help="One record; may be repeated.")
@click.option("--resume", is_flag=True, help="Go on with erasures that were begun, and choose nothing new.")
@click.option("--drop-damaged", is_flag=True, help="Also remove lines that cannot be read: nobody knows whose.")
@click.option("--runs", type=click.Path(path_type=Path), help="Folder of training runs to look through: who used them?")
@click.option("--wait-s", default=15.0, show_default=True, help="For gateways to let go of segments, queries to end.")
@MEMORY
@JSON
@reported
def forget_command(folder: Path | None, config: Path | None, as_json: bool, **given: Any) -> None:
    """Erase every record of a person, a tenant or a session: decisions, feedback, shadow answers.

    What is given must all hold. Nothing of it comes back later; the records are read again afterwards to be certain.
    Exit code 1 when something is left: then the report says what, and the same command goes on.

    \b
    Examples:
      locum log forget traffic --subject user-4711 --json
      locum log forget -c locum.toml --tenant acme --session conv-17
    """
    from router.log.erasure import Choice, forget  # noqa: PLC0415 - not for every command
    from router.log.training_use import runs_that_used  # noqa: PLC0415

    choice = Choice(given["subject"], given["tenant"], given["session"], frozenset(given["decision_ids"]))
    if bool(choice) == given["resume"]:
        raise WrongInput("give --subject, --tenant, --session or --decision-id; or --resume alone")
    if "" in (given["subject"], given["tenant"], given["session"], *given["decision_ids"]):
        raise WrongInput("an empty name chooses nothing")
    path, _ = _described(folder, config)
    options = {key: given[key] for key in ("memory_limit", "wait_s", "drop_damaged")}
    done = forget(path, choice, progress=say, **options)
    runs = runs_that_used(given["runs"], done.ids) if given["runs"] is not None else None
    if as_json:
        click.echo(json.dumps(_erased_json(done, runs), indent=2))
    else:
        _tell_erased(done, runs)
    if not done.complete:
        raise SystemExit(1)


def _erased_json(done: Erasure, runs: list[str] | None) -> dict[str, Any]:
    return {
        "complete": done.complete, "chosen_by": done.chosen_by, "tombstone": done.tombstone,
        "started": datetime.fromtimestamp(done.started_s, UTC).isoformat(), "removed": dict(done.removed),
        "rewritten": done.rewritten, "in_use": done.in_use, "waiting": done.waiting, "unreadable": done.unreadable,
        "left": done.left, "other_instances": done.elsewhere, "training_runs": runs,
    }  # fmt: skip


def _tell_erased(done: Erasure, runs: list[str] | None) -> None:
    click.echo(f"erased: {_counted(done.removed)}; {len(done.rewritten)} segments and compacted files were rewritten")
    told = (
        (done.in_use, "still written by a gateway; run the command again"),
        (done.waiting, "replaced, but read by a query now; run the command again with --resume"),
        (done.unreadable, "cannot be read, so nobody knows whose it is; --drop-damaged removes it"),
        (done.left, "should be gone and is there; run the command again with --resume"),
        (done.elsewhere, "compacts into the same store; the segments on its machine are filtered from now on"),
        (runs or [], "was made with these records; remove it and train again"),
    )
    for names, meaning in told:
        for name in names:
            click.echo(f"{name}: {meaning}")
    if done.complete:
        click.echo("read again: nothing of it is left")


def _counted(removed: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(removed.items()) if count) or "nothing"


def _described(folder: Path | None, config: Path | None) -> tuple[Path, LogConfig | None]:
    """The log's folder, and the configuration of the log if one is given; storage.json says what that says."""
    path = resolved(folder, config)
    if folder is not None:
        return path, None
    settings = load(config or DEFAULT_CONFIG).log
    if path.is_dir():
        try:
            describe(path, settings.storage())
        except StoreError as exc:
            raise WrongInput(str(exc)) from exc
    return path, settings
