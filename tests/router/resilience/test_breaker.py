"""A replica that fails is left alone, tried carefully and taken back; and nothing else happens to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.config.resilience import BreakerConfig
from router.resilience.breaker import Breaker, State
from tests.effort import examples
from tests.router.resilience.fakes import FakeClock

CONFIG = BreakerConfig(
    consecutive_failures=3, error_rate=0.5, window_s=10.0, min_requests=10, open_s=5.0, max_open_s=15.0
)


def call(breaker: Breaker, ok: bool | None) -> None:
    assert breaker.allows()
    breaker.leave(breaker.enter(), ok)


def fail_until_open(breaker: Breaker) -> None:
    while breaker.state != "open":
        call(breaker, ok=False)


def test_breaker_opens_when_failures_follow_each_other() -> None:
    breaker = Breaker(CONFIG, FakeClock())
    for ok in (False, False, True, False, False):
        call(breaker, ok)
    assert breaker.allows()
    call(breaker, ok=False)
    assert (breaker.state, breaker.allows(), breaker.reopens_in_s()) == ("open", False, 5.0)


def test_breaker_opens_when_the_share_of_failures_is_reached() -> None:
    breaker = Breaker(CONFIG, FakeClock())
    for _ in range(4):
        call(breaker, ok=True)
        call(breaker, ok=False)
    assert breaker.state == "closed"  # too few requests to judge
    call(breaker, ok=True)
    call(breaker, ok=False)
    assert breaker.state == "open"


def test_breaker_forgets_failures_when_they_have_left_the_window() -> None:
    clock = FakeClock()
    breaker = Breaker(CONFIG, clock)
    for _ in range(4):
        call(breaker, ok=False)
        call(breaker, ok=True)
    clock.pass_(10.5)
    for ok in (True, True, False):
        call(breaker, ok)
    assert breaker.state == "closed"


def test_breaker_ignores_requests_that_were_given_up() -> None:
    breaker = Breaker(CONFIG, FakeClock())
    for _ in range(50):
        call(breaker, ok=None)
    assert breaker.state == "closed"


def test_breaker_lets_one_probe_through_and_closes_when_it_succeeds() -> None:
    clock, seen = FakeClock(), list[State]()
    breaker = Breaker(CONFIG, clock, seen.append)
    fail_until_open(breaker)
    clock.pass_(4.9)
    assert not breaker.allows()
    clock.pass_(0.2)
    ticket = breaker.enter()
    assert not breaker.allows()
    breaker.leave(ticket, ok=True)
    assert breaker.allows()
    assert seen == ["open", "half_open", "closed"]


def test_breaker_waits_twice_as_long_up_to_a_limit_when_probes_fail() -> None:
    clock = FakeClock()
    breaker = Breaker(CONFIG, clock)
    fail_until_open(breaker)
    waits = []
    for _ in range(4):
        waits.append(breaker.reopens_in_s())
        clock.pass_(breaker.reopens_in_s())
        call(breaker, ok=False)
    assert waits == [5.0, 10.0, 15.0, 15.0]
    clock.pass_(15.0)
    call(breaker, ok=True)
    fail_until_open(breaker)
    assert breaker.reopens_in_s() == 5.0  # from the beginning


def test_breaker_lets_another_probe_through_when_one_was_given_up() -> None:
    clock = FakeClock()
    breaker = Breaker(CONFIG, clock)
    fail_until_open(breaker)
    clock.pass_(5.0)
    call(breaker, ok=None)
    assert breaker.state == "half_open"
    call(breaker, ok=True)
    assert breaker.state == "closed"


@pytest.mark.parametrize("ok", [True, False])
def test_breaker_ignores_the_end_of_requests_that_began_before_it_opened(ok: bool) -> None:
    clock = FakeClock()
    breaker = Breaker(CONFIG, clock)
    old = breaker.enter()
    fail_until_open(breaker)
    clock.pass_(5.0)
    probe = breaker.enter()
    breaker.leave(old, ok)
    assert (breaker.state, breaker.allows()) == ("half_open", False)
    breaker.leave(probe, ok=True)
    assert breaker.state == "closed"


def test_breaker_closes_at_the_first_event_of_a_stream_and_counts_its_break_later() -> None:
    clock = FakeClock()
    breaker = Breaker(CONFIG.model_copy(update={"consecutive_failures": 1}), clock)
    fail_until_open(breaker)
    clock.pass_(5.0)
    ticket = breaker.answered(breaker.enter())
    assert breaker.state == "closed"
    breaker.leave(ticket, ok=False)
    assert breaker.state == "open"


def test_probe_counts_once_when_several_are_needed() -> None:
    clock = FakeClock()
    breaker = Breaker(CONFIG.model_copy(update={"half_open_probes": 2}), clock)
    fail_until_open(breaker)
    clock.pass_(5.0)
    ticket = breaker.answered(breaker.enter())
    breaker.leave(ticket, ok=True)
    assert breaker.state == "half_open"
    call(breaker, ok=True)
    assert breaker.state == "closed"


class BreakerMachine(RuleBasedStateMachine):
    """Any order of requests, ends and pauses."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.config = CONFIG.model_copy(update={"half_open_probes": 2})
        self.breaker = Breaker(self.config, self.clock, self._changed)
        self.running: list[int] = []
        self.probes: set[int] = set()
        self.opened_at_s = 0.0
        self.failures_in_row = 0
        self.changes: list[State] = []

    def _changed(self, state: State) -> None:
        before = self.changes[-1] if self.changes else "closed"
        assert (before, state) in {
            ("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("half_open", "closed"),
        }  # fmt: skip
        self.changes.append(state)
        if state == "open":
            self.opened_at_s = self.clock()

    @precondition(lambda self: self.breaker.allows())
    @rule()
    def begin(self) -> None:
        if self.breaker.state != "closed":
            assert self.clock() - self.opened_at_s >= self.config.open_s
        self.running.append(self.breaker.enter())

    @precondition(lambda self: self.running)
    @rule(ok=st.sampled_from([True, False, None]), data=st.data())
    def end(self, ok: bool | None, data: st.DataObject) -> None:
        ticket = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        before = self.breaker.state
        self.breaker.leave(ticket, ok)
        if before == "open" or ok is None:
            assert self.breaker.state == before

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def first_event(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.running) - 1))
        self.running[index] = self.breaker.answered(self.running[index])

    @rule(seconds=st.floats(0.0, 20.0))
    def wait(self, seconds: float) -> None:
        self.clock.pass_(seconds)

    @invariant()
    def never_stuck(self) -> None:
        """However it got here, with every request ended and time passed it lets requests through and can close."""
        if self.breaker.state == "open":
            assert self.breaker.reopens_in_s() <= self.config.max_open_s

    def teardown(self) -> None:
        for ticket in self.running:
            self.breaker.leave(ticket, ok=None)
        self.clock.pass_(self.config.max_open_s)
        for _ in range(self.config.half_open_probes):
            call(self.breaker, ok=True)
        assert self.breaker.state == "closed"


TestBreakerMachine: Callable[[], None] = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)  # type: ignore[attr-defined]
