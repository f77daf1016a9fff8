"""The demo's totals: the split, what it cost, which policies fired, how many answers were right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from serving.demo.questions import KINDS
from serving.demo.results import Result

POLICIES: tuple[str, ...] = ("long_context", "retrieval_confidence", "long_reasoning")
"""Each must have chosen a route at least once, or the demo has not shown what it claims."""
TARGET_COST_RATIO = 5.0
RELATIVE_COST_TOLERANCE = 1e-6


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of a group of answered requests."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    """None when any price is unknown."""
    counterfactual_cost_usd: float | None
    checked: int
    right: int
    median_ttft_s: float | None
    median_latency_s: float | None


class CostShares(msgspec.Struct, frozen=True, kw_only=True):
    """Cost against all-teacher: `relative = q + (1 - q) * r`, as routing before generation costs."""

    relative: float
    """Cost divided by the all-teacher cost."""
    times_cheaper: float
    escalated_share: float
    """q: the teacher-priced share of the tokens that the teacher answered."""
    student_to_teacher_cost: float | None
    """r: the student's cost over the teacher's for the same tokens; None when the student answered nothing."""
    escalated_share_for_target: float | None
    """The q at which `TARGET_COST_RATIO` would be reached, given r; None when no q reaches it."""


class GatewayCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway's own numbers, from `/metrics`, since the first request of the demo."""

    requests: int
    cost_usd: float
    counterfactual_cost_usd: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Everything below the table."""

    requests: int
    failed: int
    not_sent: int
    streamed: int
    wall_s: float
    by_route: dict[str, Tally]
    by_kind: dict[str, dict[str, Tally]]
    """Kind, then route."""
    total: Tally
    cost: CostShares | None
    policies_fired: dict[str, int]
    policies_silent: tuple[str, ...]
    gateway: GatewayCounts | None
    gateway_agrees: bool | None
    """None when `/metrics` was not read."""

    @property
    def problems(self) -> list[str]:
        """Why the demo did not show what it should; empty when it did."""
        found = []
        if self.failed:
            found.append(f"{self.failed} request(s) failed")
        if self.not_sent:
            found.append(f"{self.not_sent} request(s) were not finished")
        found += [f"the policy {name} never fired" for name in self.policies_silent]
        if self.gateway_agrees is False:
            found.append("the gateway's own counts in /metrics differ from the client's")
        return found


def summarize(results: Sequence[Result], *, planned: int, wall_s: float, gateway: GatewayCounts | None) -> Summary:
    """Totals of the finished requests; `planned` is how many there should have been."""
    answered = [result for result in results if result.ok]
    fired = Counter(result.policy for result in answered if result.policy in POLICIES)
    total = tally(answered)
    return Summary(
        requests=len(results),
        failed=len(results) - len(answered),
        not_sent=planned - len(results),
        streamed=sum(result.stream for result in results),
        wall_s=wall_s,
        by_route=_by_route(answered),
        by_kind={kind: _by_route([r for r in answered if r.kind == kind]) for kind in KINDS},
        total=total,
        cost=cost_shares(answered),
        policies_fired={name: fired[name] for name in POLICIES},
        policies_silent=tuple(name for name in POLICIES if not fired[name]),
        gateway=gateway,
        gateway_agrees=None if gateway is None else _agrees(gateway, total, len(results)),
    )


def tally(results: Sequence[Result]) -> Tally:
    """Totals of some answered requests."""
    checked = [result.correct for result in results if result.correct is not None]
    first_tokens_s = [result.ttft_s for result in results if result.ttft_s is not None]
    return Tally(
        requests=len(results),
        prompt_tokens=sum(result.prompt_tokens or 0 for result in results),
        completion_tokens=sum(result.completion_tokens or 0 for result in results),
        cost_usd=_sum(result.cost_usd for result in results),
        counterfactual_cost_usd=_sum(result.counterfactual_cost_usd for result in results),
        checked=len(checked),
        right=sum(checked),
        median_ttft_s=median(first_tokens_s) if first_tokens_s else None,
        median_latency_s=median(result.latency_s for result in results) if results else None,
    )


def cost_shares(results: Sequence[Result]) -> CostShares | None:
    """None when a price or a usage is unknown, or nothing was answered."""
    total = tally(results)
    escalated = tally([result for result in results if result.route == "teacher"])
    own = tally([result for result in results if result.route == "student"])
    if not total.counterfactual_cost_usd or total.cost_usd is None or total.cost_usd <= 0:
        return None
    r = None
    if own.counterfactual_cost_usd and own.cost_usd is not None:
        r = own.cost_usd / own.counterfactual_cost_usd
    target = 1 / TARGET_COST_RATIO
    return CostShares(
        relative=total.cost_usd / total.counterfactual_cost_usd,
        times_cheaper=total.counterfactual_cost_usd / total.cost_usd,
        escalated_share=(escalated.counterfactual_cost_usd or 0.0) / total.counterfactual_cost_usd,
        student_to_teacher_cost=r,
        escalated_share_for_target=(target - r) / (1 - r) if r is not None and r < target else None,
    )


def read_gateway_counts(exposition: str) -> GatewayCounts:
    """Sum the counters of a `/metrics` page over their labels."""
    sums: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            sums[sample.name] += sample.value
    return GatewayCounts(
        requests=round(sums["router_requests_total"]),
        cost_usd=sums["router_cost_usd_total"],
        counterfactual_cost_usd=sums["router_counterfactual_cost_usd_total"],
    )


def _by_route(results: Sequence[Result]) -> dict[str, Tally]:
    routes = sorted({result.route or "none" for result in results})
    return {route: tally([r for r in results if (r.route or "none") == route]) for route in routes}


def _sum(costs: Iterable[float | None]) -> float | None:
    known = list(costs)
    return None if None in known else sum(cost for cost in known if cost is not None)


def _agrees(gateway: GatewayCounts, total: Tally, requests: int) -> bool:
    pairs = (
        (gateway.cost_usd, total.cost_usd),
        (gateway.counterfactual_cost_usd, total.counterfactual_cost_usd),
    )
    return gateway.requests == requests and all(
        ours is None or abs(theirs - ours) <= RELATIVE_COST_TOLERANCE * max(ours, 1e-9) for theirs, ours in pairs
    )
