"""The tables of `locum replay`."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

ROWS = (
    ("student share", "student_share", "share"),
    ("cost per request", "cost_usd_per_request", "usd"),
    ("cost per month", "cost_usd_per_month", "usd"),
    ("all-teacher per month", "all_teacher_usd_per_month", "usd"),
    ("quality", "quality", "share"),
    ("quality loss", "quality_loss", "points"),
    ("latency, mean", "latency_s", "seconds"),
)


def show(answer: dict[str, Any], console: Console, *, baseline: str, sweep: str | None) -> None:
    """Baseline, under the name given, and candidate beside each other, the sweep below, warnings last."""
    days = answer["window_s"] / 86_400
    console.print(f"{answer['records']:,} requests of {days:.1f} days, {answer['labels']:,} of them graded")
    reports = [(baseline, answer["baseline"])]
    if answer["candidate"] is not None:
        reports.append(("candidate", answer["candidate"]))
    table = Table("", *(name for name, _ in reports), box=box.SIMPLE_HEAD, pad_edge=False)
    for title, key, unit in ROWS:
        table.add_row(title, *(_interval(report[key], unit) for _, report in reports))
    table.add_row("not told by the log", *(f"{report['unsupported']:,}" for _, report in reports))
    console.print(table)
    if answer["sweep"] is not None:
        swept = Table((sweep or "").partition("=")[0], "student share", "USD per month", "quality", "quality loss",
                      box=box.SIMPLE_HEAD, pad_edge=False)  # fmt: skip
        for row in answer["sweep"]:
            report = row["report"]
            swept.add_row(
                f"{row['value']:g}",
                _interval(report["student_share"], "share"),
                _interval(report["cost_usd_per_month"], "usd"),
                _interval(report["quality"], "share"),
                _interval(report["quality_loss"], "points"),
            )
        console.print(swept)
    for warning in answer["warnings"]:
        console.print(f"warning: {warning}")


def _interval(found: dict[str, float] | None, unit: str) -> str:
    if found is None:
        return "not known"
    value, low, high = (_number(found[key], unit) for key in ("value", "low", "high"))
    return f"{value}  [{low}, {high}]"


def _number(value: float, unit: str) -> str:
    match unit:
        case "share":
            return f"{value:.1%}"
        case "points":
            return f"{value * 100:+.1f}"
        case "seconds":
            return f"{value:.2f} s"
        case _:
            return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"
