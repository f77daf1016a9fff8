"""From samples to medians, ratios, targets and a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.measure import Sample

MIN_PLAIN_RATIO = 0.06
MIN_STREAM_RATIO = 0.4
MAX_ADDED_P99_S = 0.005
SATURATED_CPU_SHARE = 0.9
MIN_CPU_SHARE = 0.5
"""With nginx's core less busy than this, its measured rate says nothing about nginx."""
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


def goals(rows: Sequence[Median], samples: Sequence[Sample]) -> list[Goal]:
    """The targets that these measurements can judge; none where a system was left out."""
    by_name = {(row.scenario, row.system): row for row in rows}
    found = []
    for scenario, bound, unit in (("plain", MIN_PLAIN_RATIO, "requests/s"), ("stream", MIN_STREAM_RATIO, "streams/s")):
        ours, floor = by_name.get((scenario, "locum")), by_name.get((scenario, "nginx"))
        if ours is not None and floor is not None:
            found.append(_ratio_goal(f"{scenario}: {unit}, locum / nginx", ours, floor, bound))
    added = added_p99_s(samples)
    if added is not None:
        found.append(
            Goal(
                name="latency: p99 added at 300 requests/s, in s (locum - direct, median of the rounds)",
                value=added,
                bound=MAX_ADDED_P99_S,
                met=added < MAX_ADDED_P99_S,
            )
        )
    return found


def _ratio_goal(name: str, ours: Median, floor: Median, bound: float) -> Goal:
    """The ratio of the measured rates. Where nginx waited for the load its rate flatters us: the note says by how much,
    and where it hardly worked the ratio by CPU time decides."""
    ratio = ours.requests_per_s / floor.requests_per_s
    full_ratio = ours.full_core_requests_per_s / floor.full_core_requests_per_s
    note, judged = "", ratio
    if floor.cpu_share < SATURATED_CPU_SHARE:
        note = (
            f"nginx's core was {floor.cpu_share:.0%} busy; by CPU time per request a full core gives it "
            f"{floor.full_core_requests_per_s:,.0f}/s, ratio {full_ratio:.3f}"
        )
    if floor.cpu_share < MIN_CPU_SHARE:
        judged = min(ratio, full_ratio)
        note += ", which is what was judged"
    return Goal(name=name, value=ratio, bound=bound, met=judged >= bound, note=note)


def added_p99_s(samples: Sequence[Sample]) -> float | None:
    """Locum's p99 minus direct's p99 of the same round, the median of that over the rounds."""
    ours = [sample.p99_s for sample in samples if (sample.scenario, sample.system) == ("latency", "locum")]
    direct = [sample.p99_s for sample in samples if (sample.scenario, sample.system) == ("latency", "direct")]
    if not ours or len(ours) != len(direct):
        return None
    return statistics.median(mine - bare for mine, bare in zip(ours, direct, strict=True))


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole outcome of a benchmark."""

    environment: dict[str, str]
    rounds: int
    seconds: float
    foreign_cpu_share: float
    """Of the cores in use, taken by processes that are not ours while we measured."""
    medians: list[Median]
    goals: list[Goal]
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
        sign = "<" if goal.name.startswith("latency") else ">="
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
    for row in rows:
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
            end_section=row.system == rows[-1].system,
        )
    return table
