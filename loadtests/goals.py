"""The project's targets, judged by what one run of the benchmark has measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from loadtests.measure import Sample
from loadtests.report import Goal, Median

MIN_RATIOS: dict[tuple[str, str], float] = {
    ("plain", "nginx"): 0.06,
    ("plain", "tensorzero"): 0.7,
    ("plain", "production-stack"): 2.5,
    ("plain", "litellm"): 50.0,
    ("stream", "nginx"): 0.55,
    ("stream", "tensorzero"): 3.0,
}
"""Locum's answers a second on one core by the other's."""
MAX_ADDED_P99_S = 0.005
"""At 300 requests/s."""
MAX_ADDED_P50_S = 0.0005
"""With one connection."""
MAX_RSS_BYTES = 150 * 2**20
SATURATED_CPU_SHARE = 0.9
MIN_CPU_SHARE = 0.5
"""With the other's core less busy than this, its measured rate says nothing about it."""


def goals(rows: Sequence[Median], samples: Sequence[Sample]) -> list[Goal]:
    """The targets that these measurements can judge; none where a system was left out."""
    by_name = {(row.scenario, row.system): row for row in rows}
    found = []
    for (scenario, other), bound in MIN_RATIOS.items():
        ours, theirs = by_name.get((scenario, "locum")), by_name.get((scenario, other))
        if ours is not None and theirs is not None:
            unit = "streams/s" if scenario == "stream" else "requests/s"
            found.append(_ratio_goal(f"{scenario}: {unit}, locum / {other}", ours, theirs, bound))
    found += _added("single", "p50_s", MAX_ADDED_P50_S, "p50 added with one connection", samples)
    found += _added("latency", "p99_s", MAX_ADDED_P99_S, "p99 added at 300 requests/s", samples)
    sizes = [row.rss_bytes for row in rows if row.system == "locum"]
    if sizes:
        size = max(sizes)
        found.append(
            Goal(
                name="memory: resident MB of the worker",
                value=size / 2**20,
                bound=MAX_RSS_BYTES / 2**20,
                met=size < MAX_RSS_BYTES,
                at_most=True,
            )
        )
    return found


def _ratio_goal(name: str, ours: Median, other: Median, bound: float) -> Goal:
    """The ratio of the measured rates. Where the other waited for the load its rate flatters us: the note says by how
    much, and where it hardly worked the ratio by CPU time decides."""
    ratio = ours.requests_per_s / other.requests_per_s if other.requests_per_s else float("inf")
    full_ratio = ours.full_core_requests_per_s / (other.full_core_requests_per_s or float("nan"))
    note, judged = "", ratio
    if other.cpu_share < SATURATED_CPU_SHARE:
        note = (
            f"{other.system}'s core was {other.cpu_share:.0%} busy; by CPU time per request a full core gives it "
            f"{other.full_core_requests_per_s:,.0f}/s, ratio {full_ratio:.3f}"
        )
    if other.cpu_share < MIN_CPU_SHARE:
        judged = min(ratio, full_ratio)
        note += ", which is what was judged"
    return Goal(name=name, value=ratio, bound=bound, met=judged >= bound, note=note)


def _added(scenario: str, figure: str, bound: float, words: str, samples: Sequence[Sample]) -> list[Goal]:
    value = added_s(samples, scenario, figure)
    if value is None:
        return []
    name = f"{scenario}: {words}, in s (locum - direct, median of the rounds)"
    return [Goal(name=name, value=value, bound=bound, met=value < bound, at_most=True)]


def added_s(samples: Sequence[Sample], scenario: str, figure: str) -> float | None:
    """Locum's figure minus direct's of the same round, the median of that over the rounds."""

    def of(system: str) -> list[float]:
        return [getattr(sample, figure) for sample in samples if (sample.scenario, sample.system) == (scenario, system)]

    ours, direct = of("locum"), of("direct")
    if not ours or len(ours) != len(direct):
        return None
    return statistics.median(mine - bare for mine, bare in zip(ours, direct, strict=True))
