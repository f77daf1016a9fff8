"""What the run prints: the operator's reports, the decision, and before and after side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from trainer.claim.steps import Result

PER = 1_000
"""Requests that an amount of money is told for: one of them costs too little to read."""


def show(figures: Result, console: Console) -> None:
    """Everything, in the order in which an operator looks at it."""
    _headed(console, "locum log stats", figures["stats"])
    _headed(console, "locum log quality", figures["quality"])
    console.print("\n[bold]Replay: thresholds of the cascade on the logged traffic[/bold]")
    show_sweep(figures, console)
    for warning in figures["replay"]["warnings"]:
        console.print(f"- {warning}")
    choice, change = figures["choice"], figures.get("change")
    if change is None:
        console.print(f"\n[bold]Nothing is changed:[/bold] {choice['why']}.")
        return
    console.print(
        f"\n[bold]Policy version {change['version']}:[/bold] cascade.threshold from {change['from']:.5f} to "
        f"{change['to']:.5f}, {choice['why']}."
    )
    _headed(console, f"locum log quality --since {change['since']}", figures["quality_after"])
    console.print("\n[bold]Before and after, and what replay had said[/bold]")
    show_comparison(figures, console)


def show_sweep(figures: Result, console: Console) -> None:
    """A row a threshold; the one in force first."""
    table = _table("threshold", "student share", f"USD per {PER:,}", "quality loss, points")
    rows = [("in force", figures["replay"]["baseline"])]
    rows += [(f"{each['value']:.5f}", each["report"]) for each in figures["replay"]["sweep"]]
    for name, report in rows:
        chosen = name == f"{figures['choice']['value'] or 0:.5f}"
        cells = (
            _percent(report["student_share"]),
            _usd(report["cost_usd_per_request"]),
            _points(report["quality_loss"]),
        )
        table.add_row(f"{name} <-" if chosen else name, *cells)
    console.print(table)


def show_comparison(figures: Result, console: Console) -> None:
    """Before, predicted, after; the last rows are what no operator has."""
    before, after, told = figures["before"], figures["after"], figures["choice"]["predicted"]
    table = _table("", "before", "predicted", "after")

    def row(name: str, of: Callable[[Result], Any], shown: Callable[[Any], str], predicted: Any = None) -> None:
        table.add_row(name, shown(of(before)), "" if predicted is None else shown(predicted), shown(of(after)))

    row("requests", lambda part: part["bill"]["requests"], lambda count: f"{count:,}")
    row("student share", lambda part: part["bill"]["student_share"], _percent, told["student_share"])
    row(f"USD per {PER:,}", lambda part: part["bill"]["usd_per_request"], _usd, told["cost_usd_per_request"])
    row(f"all-teacher, USD per {PER:,}", lambda part: part["bill"]["all_teacher_usd_per_request"], _usd)
    row("bill, of all-teacher", lambda part: part["bill"]["of_all_teacher"], lambda share: f"{share:.1%}")
    row("quality loss by grades, points", lambda part: part["quality"]["quality_loss"], _points, told["quality_loss"])
    row("what the student answered, by people", lambda part: part["quality"]["feedback"]["student"], _percent)
    table.add_section()
    row("true labels: right", lambda part: part["truth"]["accuracy"], _percent)
    row("true labels: the teacher alone", lambda part: part["truth"]["teacher_accuracy"], _percent)
    row("true labels: quality loss, points", lambda part: part["truth"]["loss"], _points)
    console.print(table)


def _headed(console: Console, title: str, text: str) -> None:
    console.print(f"\n[bold]{title}[/bold]")
    console.print(text.rstrip(), markup=False, highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table


def _percent(estimate: Result | None) -> str:
    return _within(estimate, lambda value: f"{100 * value:.1f}%")


def _usd(estimate: Result | None) -> str:
    return _within(estimate, lambda value: f"{PER * value:.4f}")


def _points(estimate: Result | None) -> str:
    return _within(estimate, lambda value: f"{100 * value:+.1f}", nothing="too few labels")


def _within(estimate: Result | None, shown: Callable[[float], str], nothing: str = "-") -> str:
    if estimate is None:
        return nothing
    value = estimate["value"] if "value" in estimate else estimate["estimate"]
    return f"{shown(value)}  [{shown(estimate['low'])}, {shown(estimate['high'])}]"
