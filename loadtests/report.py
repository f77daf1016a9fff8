"""From samples to medians, and what is printed of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.comparison import Contender
from loadtests.measure import Sample

MAX_FOREIGN_CPU_SHARE = 0.1


class Median(msgspec.Struct, frozen=True, kw_only=True):
    """The median over the rounds of each figure on its own."""

    system: str
    scenario: str
    rounds: int
    requests: int
    """In all rounds together."""
    failed: int
    requests_per_s: float
    p50_s: float
    p99_s: float
    cpu_share: float
    cpu_s_per_request: float
    rss_bytes: int

    @property
    def full_core_requests_per_s(self) -> float:
        """What a whole core would give at this cost: more than was measured where the load was the limit."""
        return max(self.requests_per_s, 1.0 / self.cpu_s_per_request if self.cpu_s_per_request else 0.0)


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A target of the project and what was measured."""

    name: str
    value: float
    bound: float
    met: bool
    at_most: bool = False
    """Whether `bound` is the most that is allowed, not the least that is wanted."""
    note: str = ""


def medians(samples: Iterable[Sample]) -> list[Median]:
    """In the order in which the pairs of scenario and system first appear."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.scenario, sample.system), []).append(sample)
    return [_median(group) for group in groups.values()]


def _median(group: Sequence[Sample]) -> Median:
    def middle(figure: Callable[[Sample], float]) -> float:
        return statistics.median(figure(sample) for sample in group)

    return Median(
        system=group[0].system,
        scenario=group[0].scenario,
        rounds=len(group),
        requests=sum(sample.requests for sample in group),
        failed=sum(sample.failed for sample in group),
        requests_per_s=middle(lambda sample: sample.requests_per_s),
        p50_s=middle(lambda sample: sample.p50_s),
        p99_s=middle(lambda sample: sample.p99_s),
        cpu_share=middle(lambda sample: sample.cpu_share),
        cpu_s_per_request=middle(lambda sample: sample.cpu_s_per_request),
        rss_bytes=int(middle(lambda sample: sample.rss_bytes)),
    )


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole outcome of a benchmark."""

    environment: dict[str, str]
    rounds: int
    seconds: float
    foreign_cpu_share: float
    """Of the cores in use, taken by processes that are not ours while we measured."""
    medians: list[Median]
    goals: list[Goal]
    contenders: list[Contender] = []
    mixed_routes: dict[str, int]
    samples: list[Sample]


def print_report(console: Console, report: Report) -> None:
    for key, value in report.environment.items():
        console.print(f"{key}: {value}", highlight=False)
    console.print(_table(report.medians, f"Medians of {report.rounds} rounds of {report.seconds:g} s"))
    if report.mixed_routes:
        counts = ", ".join(f"{count} x {name}" for name, count in sorted(report.mixed_routes.items()))
        console.print(f"mixed routing through locum: {counts}", highlight=False)
    if report.foreign_cpu_share > MAX_FOREIGN_CPU_SHARE:
        console.print(
            f"warning: other processes took {report.foreign_cpu_share:.0%} of these cores; repeat on a quiet machine",
            highlight=False,
        )
    for goal in report.goals:
        sign = "<" if goal.at_most else ">="
        verdict = "met" if goal.met else "NOT MET"
        console.print(f"{verdict}: {goal.name}: {goal.value:.4f} (target {sign} {goal.bound})", highlight=False)
        if goal.note:
            console.print(f"     {goal.note}", highlight=False)


def _table(rows: Sequence[Median], title: str) -> Table:
    table = Table(title=title)
    for heading in ("scenario", "system"):
        table.add_column(heading)
    for heading in ("answers/s", "/ nginx", "p50 ms", "p99 ms", "core busy", "CPU us/answer", "RSS MB", "failed"):
        table.add_column(heading, justify="right")
    floors = {row.scenario: row.requests_per_s for row in rows if row.system == "nginx"}
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        floor = floors.get(row.scenario)
        table.add_row(
            row.scenario,
            row.system,
            f"{row.requests_per_s:,.0f}",
            f"{row.requests_per_s / floor:.3f}" if floor else "",
            f"{row.p50_s * 1e3:.2f}",
            f"{row.p99_s * 1e3:.2f}",
            f"{row.cpu_share:.0%}",
            f"{row.cpu_s_per_request * 1e6:.0f}",
            f"{row.rss_bytes / 2**20:.0f}",
            str(row.failed),
            end_section=following is not None and following.scenario != row.scenario,
        )
    return table
