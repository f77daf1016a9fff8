"""`locum log`: figures, SQL, checks, exports and compaction of the traffic log."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from policies.traffic.sql import LogDatabase, open_log
from router.log.export import check_target, export
from router.log.options import CONFIG, DIR, FOLDER, JSON, MEMORY, WrongInput, reported, resolved
from router.log.output import write_csv, write_json, write_table
from router.log.quality_commands import drift, quality
from router.log.stats import Assumptions, collect
from router.log.stats_report import show
from router.log.storage_commands import compact_command, forget_command, prune_command
from router.log.verify import verify


@click.group()
def log() -> None:
    """Look into the traffic log: figures, SQL, checks, exports. Gateways may go on writing meanwhile.

    DIR is the log's folder; without it the folder is log.dir of -c (default: locum.toml).
    """


log.add_command(quality)
log.add_command(drift)
log.add_command(compact_command)
log.add_command(prune_command)
log.add_command(forget_command)


@log.command("stats")
@DIR
@CONFIG
@click.option(
    "--student-usd-per-month", default=365.0, show_default="365: 0.50 USD an hour", type=click.FloatRange(min=0),
    help="What the student's machine costs.",
)  # fmt: skip
@click.option(
    "--training-usd", default=25.0, show_default=True, type=click.FloatRange(min=0), help="What distilling costs once."
)
@click.option(
    "--escalated-share", default=0.2, show_default=True, type=click.FloatRange(0, 1, max_open=True),
    help="Share of the teacher's work that stays with it.",
)  # fmt: skip
@click.option(
    "--teacher-input-usd-per-1m", type=click.FloatRange(min=0), help="Teacher's price; default: from the records."
)
@click.option(
    "--teacher-output-usd-per-1m", type=click.FloatRange(min=0), help="Teacher's price; default: from the records."
)
@MEMORY
@JSON
@reported
def stats(folder: Path | None, config: Path | None, memory_limit: str, as_json: bool, **given: Any) -> None:
    """Counts, tokens, spend, labels, what may be distilled, and whether distilling pays at this volume.

    Example: locum log stats traffic --student-usd-per-month 200
    """
    if (given["teacher_input_usd_per_1m"] is None) != (given["teacher_output_usd_per_1m"] is None):
        raise WrongInput("--teacher-input-usd-per-1m and --teacher-output-usd-per-1m go together")
    with open_log(resolved(folder, config), memory_limit=memory_limit) as opened:
        figures = collect(opened, Assumptions(**given))
    if as_json:
        click.echo(json.dumps(figures, indent=2))
    else:
        show(figures, Console(soft_wrap=True, highlight=False))


@log.command("query")
@click.argument("arguments", metavar="[DIR] SQL", nargs=-1, required=True)
@CONFIG
@MEMORY
@JSON
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@reported
def query(arguments: tuple[str, ...], config: Path | None, memory_limit: str, as_json: bool, as_csv: bool) -> None:
    """Run one SELECT (DuckDB's SQL) over the views `records`, `feedback`, `judgements` and `shadows`.

    Fields are columns, nested ones reached with dots. Nothing but the log can be read: no files, no network.

    \b
    Examples:
      locum log query traffic "SELECT decision.reason, count(*) FROM records GROUP BY ALL"
      locum log query traffic "SELECT route, sum(usage.prompt_tokens) FROM records GROUP BY 1" --csv
      locum log query -c locum.toml "DESCRIBE records"
    """
    if len(arguments) > 2 or (len(arguments) == 1 and Path(arguments[0]).is_dir()):
        raise WrongInput("give [DIR] and one SQL statement; quote the statement")
    if as_json and as_csv:
        raise WrongInput("--json and --csv exclude each other")
    folder = Path(arguments[0]) if len(arguments) == 2 else None
    with open_log(resolved(folder, config), memory_limit=memory_limit) as opened:
        names, rows = opened.query(arguments[-1])
        if as_json:
            write_json(names, rows, sys.stdout)
        elif as_csv:
            write_csv(names, rows, sys.stdout)
        else:
            write_table(names, rows, Console(highlight=False))
        _warn(opened)


@log.command("verify")
@DIR
@CONFIG
@JSON
@reported
def verify_command(folder: Path | None, config: Path | None, as_json: bool) -> None:
    """Read every record and compare its checksum; exit code 1 when one is damaged or there twice.

    A last line that is still being written, or that a killed process left, is no damage: its answer never went out.
    Example: locum log verify traffic
    """
    result = verify(resolved(folder, config), _verify_progress)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        for each in result["damaged"]:
            click.echo(f"damaged: {each['file']}:{each['line']}: {each['cause']}")
        for each in result["doubled"]:
            click.echo(f"doubled: {each['file']}:{each['line']}: {each['decision_id']} (first: {each['first']})")
        click.echo(
            f"{'sound' if result['sound'] else 'NOT sound'}: {result['decisions']:,} decisions and "
            f"{result['feedback']:,} judgements and {result['shadows']:,} shadow answers in "
            f"{result['segments']} segments and "
            f"{result['compacted_files']} compacted files; {len(result['damaged'])} damaged, "
            f"{len(result['doubled'])} doubled, {result['unfinished_lines']} unfinished last lines"
        )
    if not result["sound"]:
        raise SystemExit(1)


@log.command("export")
@DIR
@CONFIG
@click.option("--out", required=True, type=FOLDER, help="FILE.jsonl or FILE.parquet; replaced when it is complete.")
@click.option("--where", help="SQL condition over the records, as in `locum log query`.")
@MEMORY
@reported
def export_command(folder: Path | None, config: Path | None, out: Path, where: str | None, memory_limit: str) -> None:
    """Write every decision record, of every route, into one file: one a line or row, oldest first, key `decision_id`.

    Consent is not filtered here; `locum train run` does that.

    \b
    Examples:
      locum log export traffic --out records.jsonl
      locum log export traffic --out hard.parquet --where "route = 'teacher' AND outcome = 'ok'"
    """
    check_target(out)
    with open_log(resolved(folder, config), memory_limit=memory_limit) as opened:
        total = opened.count(where)
        with click.progressbar(length=total, label="exporting", file=sys.stderr) as bar:
            written = export(opened, out, where, bar.update)
        _warn(opened)
    click.echo(f"{written:,} records in {out}", err=True)


def _warn(opened: LogDatabase) -> None:
    if opened.damage or opened.doubled:
        _say(
            f"warning: {len(opened.damage)} damaged lines and {len(opened.doubled)} doubled records were left out; "
            "`locum log verify` names them"
        )


def _say(message: str) -> None:
    click.echo(message, err=True)


def _verify_progress(file: str, records: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{records:,} records, {file}\x1b[K\r", nl=False, err=True)
