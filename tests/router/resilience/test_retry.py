"""Retries stay within their budget, whatever happens."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from router.config.resilience import RetryConfig
from router.resilience.deadline import Deadline
from router.resilience.retry import RetryBudget, backoff_s, polite_wait_s
from tests.router.resilience.fakes import FakeClock


@given(st.lists(st.booleans(), max_size=300), st.floats(0, 1), st.integers(0, 20))
def test_retries_never_exceed_the_burst_and_their_share_of_requests(
    events: list[bool], ratio: float, burst: int
) -> None:
    budget, requests, retries = RetryBudget(ratio, burst), 0, 0
    for is_request in events:
        if is_request:
            requests += 1
            budget.deposit()
        elif budget.withdraw():
            retries += 1
        assert retries <= burst + ratio * requests + 1e-6


def test_budget_without_burst_pays_for_retries_from_its_share() -> None:
    budget = RetryBudget(0.5, 0)
    assert not budget.withdraw()
    budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()


def test_wait_is_random_up_to_a_limit_that_doubles() -> None:
    config, random = RetryConfig(base_delay_s=0.1, max_delay_s=0.5), Random(1)
    for retry, most_s in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.5), (60, 0.5)):
        waits = [backoff_s(config, retry, random) for _ in range(500)]
        assert 0 <= min(waits) < 0.1 * most_s
        assert 0.9 * most_s < max(waits) <= most_s


def test_retry_after_is_never_shortened() -> None:
    random = Random(1)
    waits = [polite_wait_s(2.0, random) for _ in range(200)]
    assert 2.0 <= min(waits) < max(waits) <= 2.2


def test_deadline_cuts_every_phase_to_what_is_left() -> None:
    clock = FakeClock()
    deadline = Deadline.after(10.0, clock)
    assert deadline.cut(3.0) == 3.0
    clock.pass_(8.0)
    assert deadline.cut(3.0) == 2.0
    assert deadline.allows(1.9)
    assert not deadline.allows(2.0)
    clock.pass_(5.0)
    assert (deadline.left_s(), deadline.cut(3.0), deadline.allows(0.0)) == (0.0, 0.0, False)
