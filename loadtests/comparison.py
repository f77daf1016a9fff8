"""One line a system: rates, latencies, memory, and how many times as fast Locum is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from loadtests.report import Median, Report


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """Another gateway of the benchmark."""

    name: str
    version: str
    about: str
    not_installed: str = ""
    """Why it could not be had."""


def print_comparison(console: Console, report: Report) -> None:
    """All systems in one table, and what it cannot show."""
    console.print(_table(report))
    console.print("locum: API keys, limits, a budget, metrics and decision records on", highlight=False)
    for contender in report.contenders:
        about = f"not measured: {contender.not_installed}" if contender.not_installed else contender.about
        console.print(f"{contender.name} {contender.version}: {about}", highlight=False)


def _table(report: Report) -> Table:
    table = Table(title="One core each: Locum / other is how many times as much Locum gives")
    table.add_column("system")
    for heading in (
        *("plain/s", "Locum / other", "streams/s", "Locum / other"),
        *("p50 ms, 1 conn.", "p99 ms, 1 conn.", "p50 ms, 300/s", "p99 ms, 300/s", "RSS MB"),
    ):
        table.add_column(heading, justify="right")
    rows = {(row.system, row.scenario): row for row in report.medians}
    for name in dict.fromkeys(row.system for row in report.medians):
        plain, stream = rows.get((name, "plain")), rows.get((name, "stream"))
        single, latency = rows.get((name, "single")), rows.get((name, "latency"))
        table.add_row(
            name,
            *(_rate(plain), _ratio(rows.get(("locum", "plain")), plain)),
            *(_rate(stream), _ratio(rows.get(("locum", "stream")), stream)),
            *(_ms(single, "p50_s"), _ms(single, "p99_s"), _ms(latency, "p50_s"), _ms(latency, "p99_s")),
            f"{plain.rss_bytes / 2**20:.0f}" if plain is not None else "",
        )
    return table


def _rate(row: Median | None) -> str:
    return f"{row.requests_per_s:,.0f}" if row is not None else ""


def _ratio(ours: Median | None, other: Median | None) -> str:
    if ours is None or other is None or ours.system == other.system or not other.requests_per_s:
        return ""
    return f"{ours.requests_per_s / other.requests_per_s:.2f}"


def _ms(row: Median | None, name: str) -> str:
    """Empty where the system was too slow for the scenario."""
    return f"{getattr(row, name) * 1e3:.2f}" if row is not None else "-"
