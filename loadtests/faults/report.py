"""The outcome: a table on the terminal, JSON, and a page of the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.faults.cases import GROUPS
from loadtests.faults.play import Cell, Outcome

MARKS: dict[Outcome, str] = {"pass": "yes", "fail": "**no**", "not_applicable": "n/a", "not_started": "n/a"}
STYLES: dict[Outcome, str] = {"pass": "green", "fail": "bold red", "not_applicable": "dim", "not_started": "yellow"}
INTRODUCTION = """\
# Faults

What Locum and other gateways do when an upstream fails or a client misbehaves. The page is written by `make faults`,
which installs every gateway that a package registry has, puts each between the same two fake upstreams on this
machine's loopback, plays the same cases, and judges from the bytes that the client got and from what the upstream
saw. The cases stand in `loadtests/faults/cases.py`; the fast tests play them against Locum (`tests/faults/`).

A gateway is configured as its documentation says, with the timeouts and the fallback that a case is about where it has
them. *n/a*: it has nothing that the case could be about. Every **no** has its sentence below the table. Versions move:
a row says what this version did on that day, with this configuration.
"""


class SystemReport(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway's column."""

    name: str
    version: str
    about: str
    not_installed: str | None = None
    """Why it could not be had here."""
    cells: list[Cell] = []

    def cell(self, case: str) -> Cell | None:
        return next((cell for cell in self.cells if cell.case == case), None)

    def counts(self) -> Counter[str]:
        return Counter(cell.outcome for cell in self.cells)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, as it goes into the JSON file."""

    date: str
    commit: str
    hardware: str
    python: str
    systems: list[SystemReport]


def print_report(console: Console, report: Report) -> None:
    """The table, and a sentence for every cell that failed."""
    table = Table(title=f"Faults, {report.date}, commit {report.commit}")
    table.add_column("case")
    for system in report.systems:
        table.add_column(f"{system.name}\n{system.version}")
    for title, cases in GROUPS.items():
        played = [case for case in cases if any(system.cell(case.name) for system in report.systems)]
        for index, case in enumerate(played):
            table.add_row(
                case.title.replace("`", ""),
                *(_styled(system, case.name) for system in report.systems),
                end_section=index == len(played) - 1,
            )
        del title
    table.add_row("passed", *(_score(system) for system in report.systems))
    console.print(table)
    for system in report.systems:
        if system.not_installed is not None:
            console.print(f"{system.name}: not installed: {system.not_installed}", markup=False)
        for cell in system.cells:
            if cell.outcome in ("fail", "not_started"):
                console.print(f"{system.name}, {cell.case}: {cell.saw}", markup=False, highlight=False)


def _styled(system: SystemReport, name: str) -> str:
    cell = system.cell(name)
    if cell is None:
        return "not installed" if system.not_installed is not None else "-"
    return f"[{STYLES[cell.outcome]}]{MARKS[cell.outcome].strip('*')}[/]"


def _score(system: SystemReport) -> str:
    counts = system.counts()
    return "-" if not system.cells else f"{counts['pass']} of {counts['pass'] + counts['fail']}"


def page(report: Report) -> str:
    """The page `docs/faults.md`."""
    return "\n".join([INTRODUCTION, *_circumstances(report), *_table(report), *_sentences(report)])


def _circumstances(report: Report) -> Iterator[str]:
    yield f"Run on {report.date} at commit `{report.commit}` with Python {report.python} on {report.hardware}."
    yield ""
    yield "| gateway | version | how it was run | rows passed |"
    yield "|---|---|---|---|"
    for system in report.systems:
        about = system.about if system.not_installed is None else f"not installed: {system.not_installed}"
        yield f"| {system.name} | {system.version} | {about} | {_score(system)} |"
    yield ""


def _table(report: Report) -> Iterator[str]:
    names = [system.name for system in report.systems]
    for title, cases in GROUPS.items():
        yield f"## {title}"
        yield ""
        yield f"| what happens | a correct gateway | {' | '.join(names)} |"
        yield f"|---|---|{'---|' * len(names)}"
        for case in cases:
            marks = " | ".join(_mark(system, case.name) for system in report.systems)
            yield f"| {case.title} | {case.must} | {marks} |"
        yield ""


def _mark(system: SystemReport, name: str) -> str:
    cell = system.cell(name)
    return "-" if cell is None else MARKS[cell.outcome]


def _sentences(report: Report) -> Iterator[str]:
    titles = {case.name: case.title for cases in GROUPS.values() for case in cases}
    yield "## What was seen where the answer is no"
    for system in report.systems:
        failed = [cell for cell in system.cells if cell.outcome == "fail"]
        absent = [cell for cell in system.cells if cell.outcome in ("not_applicable", "not_started")]
        if not system.cells:
            continue
        yield ""
        yield f"### {system.name} {system.version}"
        yield ""
        if not failed:
            yield "Nothing."
        for cell in failed:
            yield f"- {titles[cell.case]}: {cell.saw}."
        for cell in absent:
            yield f"- {titles[cell.case]}: n/a, {cell.saw}."
    yield ""
