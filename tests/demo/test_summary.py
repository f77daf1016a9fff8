from __future__ import annotations

from collections.abc import Callable

import pytest

from serving.demo.results import Prices, Result
from serving.demo.summary import GatewayCounts, cost_shares, read_gateway_counts, summarize, tally

Make = Callable[..., Result]


def three(make_result: Make) -> list[Result]:
    """One of each policy, one default; the teacher's cost is its counterfactual."""
    teacher = {"route": "teacher", "cost_usd": 1.0, "counterfactual_cost_usd": 1.0}
    return [
        make_result(cost_usd=0.01),
        make_result(policy="long_context", kind="long", correct=False, stream=True, ttft_s=2.0, **teacher),
        make_result(policy="retrieval_confidence", kind="off_topic", correct=None, **teacher),
        make_result(policy="long_reasoning", kind="reasoning", **teacher),
    ]


def agreeing(results: list[Result]) -> GatewayCounts:
    total = tally(results)
    return GatewayCounts(
        requests=len(results),
        cost_usd=total.cost_usd or 0.0,
        counterfactual_cost_usd=total.counterfactual_cost_usd or 0.0,
    )


def test_summary_has_no_problems_when_all_answered_and_every_policy_fired(make_result: Make) -> None:
    results = three(make_result)
    summary = summarize(results, planned=4, wall_s=3.0, gateway=agreeing(results))
    assert summary.problems == []
    assert summary.policies_fired == {"long_context": 1, "retrieval_confidence": 1, "long_reasoning": 1}
    assert summary.streamed == 1


def test_summary_counts_right_answers_by_route_and_kind(make_result: Make) -> None:
    summary = summarize(three(make_result), planned=4, wall_s=3.0, gateway=None)
    assert (summary.by_route["student"].right, summary.by_route["student"].checked) == (1, 1)
    assert (summary.by_route["teacher"].right, summary.by_route["teacher"].checked) == (1, 2)
    assert summary.by_kind["off_topic"]["teacher"].checked == 0
    assert summary.total.requests == 4


def test_summary_names_the_policy_that_never_fired(make_result: Make) -> None:
    results = [result for result in three(make_result) if result.policy != "long_reasoning"]
    summary = summarize(results, planned=3, wall_s=1.0, gateway=None)
    assert summary.problems == ["the policy long_reasoning never fired"]


def test_summary_counts_failed_and_unfinished_requests(make_result: Make) -> None:
    results = [*three(make_result), make_result(ok=False, policy="long_context", cost_usd=None)]
    summary = summarize(results, planned=7, wall_s=1.0, gateway=None)
    assert (summary.failed, summary.not_sent) == (1, 2)
    assert summary.problems == ["1 request(s) failed", "2 request(s) were not finished"]
    assert summary.policies_fired["long_context"] == 1


@pytest.mark.parametrize("changed", ["requests", "cost_usd", "counterfactual_cost_usd"])
def test_summary_says_so_when_the_gateway_counted_otherwise(make_result: Make, changed: str) -> None:
    results = three(make_result)
    right = agreeing(results)
    values = {name: getattr(right, name) for name in ("requests", "cost_usd", "counterfactual_cost_usd")}
    wrong = GatewayCounts(**{**values, changed: values[changed] + 1})
    summary = summarize(results, planned=4, wall_s=1.0, gateway=wrong)
    assert summary.gateway_agrees is False
    assert any("/metrics" in problem for problem in summary.problems)


def test_cost_shares_obey_the_formula(make_result: Make) -> None:
    shares = cost_shares(three(make_result))
    assert shares is not None
    assert shares.student_to_teacher_cost == pytest.approx(0.01)
    assert shares.escalated_share == pytest.approx(0.75)
    q, r = shares.escalated_share, shares.student_to_teacher_cost
    assert shares.relative == pytest.approx(q + (1 - q) * r)
    assert shares.times_cheaper == pytest.approx(1 / shares.relative)
    target = shares.escalated_share_for_target
    assert target is not None
    assert target + (1 - target) * r == pytest.approx(0.2)


def test_cost_is_unreported_when_a_price_is_unknown(make_result: Make) -> None:
    results = [make_result(), make_result(cost_usd=None, counterfactual_cost_usd=None)]
    assert cost_shares(results) is None
    assert tally(results).cost_usd is None


def test_prices_charge_each_route_its_own_price() -> None:
    prices = Prices()
    assert prices.cost_usd("student", 1_000_000, 1_000_000) == pytest.approx(0.06)
    assert prices.cost_usd("teacher", 1_000_000, 1_000_000) == pytest.approx(12.5)
    assert Prices(teacher_input_usd=None).cost_usd("teacher", 1, 1) is None


def test_gateway_counts_sum_over_labels_and_ignore_other_metrics() -> None:
    exposition = """
# TYPE router_requests_total counter
router_requests_total{route="student",reason="default",outcome="ok"} 3.0
router_requests_total{route="teacher",reason="multi_step",outcome="ok"} 2.0
# TYPE router_cost_usd_total counter
router_cost_usd_total{route="student"} 0.25
router_cost_usd_total{route="teacher"} 0.5
# TYPE router_counterfactual_cost_usd_total counter
router_counterfactual_cost_usd_total 1.5
# TYPE router_tokens_total counter
router_tokens_total{route="student",direction="input"} 99.0
"""
    assert read_gateway_counts(exposition) == GatewayCounts(requests=5, cost_usd=0.75, counterfactual_cost_usd=1.5)
