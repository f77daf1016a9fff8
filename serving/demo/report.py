"""The demo's output: a row for each request, the split in total, and `demo.json`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serving.demo.checks import RULES
from serving.demo.questions import KINDS
from serving.demo.results import Prices, Result
from serving.demo.summary import TARGET_COST_RATIO, Summary, Tally

SCHEMA_VERSION = 1
USD_TO_MICRO_USD = 1e6
WHY = {
    "long_context": "a prompt longer than the student's window",
    "retrieval_confidence": "retrieval that found too little",
    "long_reasoning": "many steps of reasoning",
}
"""The policies in words."""
WIDEST = 1000
"""Columns; more than any table has."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """`demo.json`."""

    schema: int = SCHEMA_VERSION
    partial: bool
    """True when the run was interrupted: `requests` holds what had finished."""
    requests: list[Result]
    summary: Summary
    problems: list[str]
    prices_usd_per_1m_tokens: Prices
    versions: dict[str, str]
    models: dict[str, dict[str, str]]
    """`student`, `teacher`, `encoder`: name, source and sha256."""


def write_document(document: Document, path: Path) -> None:
    """Replace the file in one step, so that a reader never sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    partial.replace(path)


def request_table(results: Sequence[Result]) -> Table:
    """One row a request, in the order in which they ended."""
    table = _table("Requests", ("request", "mode", "route", "policy", "reason"))
    for name in ("TTFT s", "latency s", "in", "out", "cost µ$", "all-teacher"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("answer", no_wrap=True)
    for result in results:
        table.add_row(
            result.id,
            "stream" if result.stream else "plain",
            _styled_route(result.route),
            result.policy or "-",
            (result.reason or "-") + (f" [yellow]{result.degraded}[/]" if result.degraded else ""),
            _seconds(result.ttft_s),
            _seconds(result.latency_s),
            _count(result.prompt_tokens),
            _count(result.completion_tokens),
            _micro_usd(result.cost_usd),
            _micro_usd(result.counterfactual_cost_usd),
            _verdict(result),
        )
    return table


def split_table(summary: Summary) -> Table:
    """The totals by route."""
    table = _table("The split", ("route",))
    for name in (
        "requests", "share", "tokens in", "out", "cost µ$", "all-teacher µ$", "right", "median TTFT s",
        "median latency s",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    for route, tally in summary.by_route.items():
        table.add_row(_styled_route(route), *_tally_cells(tally, summary.total.requests))
    table.add_section()
    table.add_row("total", *_tally_cells(summary.total, summary.total.requests))
    return table


def kind_table(summary: Summary) -> Table:
    """Right answers by kind of request and route; n is small, so it is shown."""
    table = _table("Right answers of the checked ones", ("kind",))
    routes = list(summary.by_route)
    for route in routes:
        table.add_column(route, justify="right")
    for kind in KINDS:
        tallies = summary.by_kind.get(kind, {})
        cells = [tallies.get(route) for route in routes]
        table.add_row(
            kind,
            *("-" if cell is None or not cell.checked else f"{cell.right} of {cell.checked}" for cell in cells),
        )
    return table


def print_report(console: Console, document: Document) -> None:
    """Everything a reader needs to judge the run, doubts included."""
    summary = document.summary
    tables = (request_table(document.requests), split_table(summary), kind_table(summary))
    # Cut cells are worth nothing: a narrow terminal wraps the lines, a file gets them whole.
    unlimited = console.options.update(width=WIDEST)
    width = max(console.width, *(console.measure(table, options=unlimited).maximum for table in tables))
    wide = Console(file=console.file, width=width, force_terminal=console.is_terminal, highlight=False)
    for table in tables:
        wide.print()
        wide.print(table)
    console.print()
    for line in [*_cost_lines(summary), *_policy_lines(summary), *_gateway_lines(summary), *_notes(document)]:
        console.print(line)
    console.print()
    for line in glance(document):
        console.print(line)
    failed = [result for result in document.requests if not result.ok]
    for result in failed:
        console.print(f"[red]failed[/] {result.id}: {escape(result.error or '')}")
    for problem in document.problems:
        console.print(f"[bold red]Problem:[/] {problem}")
    if document.partial:
        console.print("[bold yellow]Interrupted:[/] the table holds what had finished.")


def glance(document: Document) -> list[str]:
    """The result in five lines, for those who read nothing else."""
    summary, total = document.summary, document.summary.total
    routes = [(name, summary.by_route[name]) for name in ("student", "teacher") if name in summary.by_route]
    cost = summary.cost
    fired = {name: count for name, count in summary.policies_fired.items() if count}
    return [
        "[bold]At a glance[/]",
        f"  Answered  {total.requests} of {summary.requests + summary.not_sent} requests: "
        + ", ".join(f"{tally.requests} by the {name}" for name, tally in routes),
        "  Cost      "
        + (
            f"[bold]{cost.times_cheaper:.1f}x cheaper[/] than the teacher alone ({100 * cost.relative:.0f} % of that)"
            if cost is not None
            else "unreported, because a price or a token count is unknown"
        ),
        "  Right     " + ", ".join(f"{tally.right} of {tally.checked} by the {name}" for name, tally in routes),
        "  Teacher   chosen because of " + (", ".join(f"{WHY[name]} ({n})" for name, n in fired.items()) or "nothing"),
        "  Verdict   "
        + ("[bold red]not what it should be: see below[/]" if document.problems else "[green]everything worked[/]"),
    ]


def _cost_lines(summary: Summary) -> list[str]:
    cost = summary.cost
    if cost is None:
        return ["Cost: unreported, because a price or a token count is unknown."]
    lines = [
        f"Cost: {100 * cost.relative:.1f} % of all-teacher, {cost.times_cheaper:.1f}x cheaper (list prices, "
        "not measured ones)."
    ]
    if cost.student_to_teacher_cost is not None:
        needed = cost.escalated_share_for_target
        lines.append(
            f"  q + (1 - q) r with q = {cost.escalated_share:.3f} (teacher-priced share of the tokens that the teacher "
            f"answered) and r = {cost.student_to_teacher_cost:.4f} (student / teacher cost); "
            + (
                f"{TARGET_COST_RATIO:g}x would need q ≤ {needed:.3f}."
                if needed is not None
                else f"no q reaches {TARGET_COST_RATIO:g}x at this r."
            )
        )
    return lines


def _policy_lines(summary: Summary) -> list[str]:
    fired = ", ".join(f"{name} {count}" for name, count in summary.policies_fired.items())
    return [
        f"Policies that chose the teacher: {fired}.",
        f"Wall time of the requests: {summary.wall_s:.1f} s; {summary.streamed} of {summary.requests} streamed.",
    ]


def _gateway_lines(summary: Summary) -> list[str]:
    gateway = summary.gateway
    if gateway is None:
        return ["The gateway's /metrics was not read."]
    verdict = "[green]agrees with the client[/]" if summary.gateway_agrees else "[red]DIFFERS from the client[/]"
    return [
        f"The gateway's own /metrics: {gateway.requests} requests, cost {_micro_usd(gateway.cost_usd)} µ$, all-teacher "
        f"{_micro_usd(gateway.counterfactual_cost_usd)} µ$: {verdict}."
    ]


def _notes(document: Document) -> list[str]:
    prices = document.prices_usd_per_1m_tokens
    return [
        "",
        f"Prices per 1M tokens in / out: student {_usd(prices.student_input_usd)} / {_usd(prices.student_output_usd)}, "
        f"teacher {_usd(prices.teacher_input_usd)} / {_usd(prices.teacher_output_usd)}: list prices, stated in "
        "locum.toml, not what this machine cost. µ$ = a millionth of a dollar.",
        "Requests: in and out are tokens by the backend's usage; all-teacher is µ$; plain answers have no TTFT.",
        "All-teacher = the same token counts at the teacher's prices; its own answers might have other lengths.",
        "Answers are checked by rules, no model judges, and one run of so few says little about quality:",
        *(f"  {name}: {rule}." for name, rule in RULES.items()),
        "The routes got different questions: their shares of right answers do not compare the models.",
    ]


def _table(title: str, names: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _tally_cells(tally: Tally, requests: int) -> tuple[str, ...]:
    return (
        str(tally.requests),
        f"{100 * tally.requests / requests:.0f} %" if requests else "-",
        f"{tally.prompt_tokens:,}",
        f"{tally.completion_tokens:,}",
        _micro_usd(tally.cost_usd),
        _micro_usd(tally.counterfactual_cost_usd),
        f"{tally.right} of {tally.checked}",
        _seconds(tally.median_ttft_s),
        _seconds(tally.median_latency_s),
    )


def _styled_route(route: str | None) -> str:
    return {"student": "[cyan]student[/]", "teacher": "[magenta]teacher[/]"}.get(route or "", route or "-")


def _verdict(result: Result) -> str:
    if not result.ok:
        return "[red]failed[/]"
    return {True: "[green]right[/]", False: "[yellow]wrong[/]", None: "[dim]unchecked[/]"}[result.correct]


def _seconds(value_s: float | None) -> str:
    return "-" if value_s is None else f"{value_s:.2f}"


def _count(tokens: int | None) -> str:
    return "-" if tokens is None else f"{tokens:,}"


def _micro_usd(value_usd: float | None) -> str:
    return "?" if value_usd is None else f"{value_usd * USD_TO_MICRO_USD:,.1f}"


def _usd(value_usd: float | None) -> str:
    return "unknown" if value_usd is None else f"${value_usd:g}"
