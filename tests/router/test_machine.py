"""The time of a machine is shared out among its requests, and nothing of it is lost or counted twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.machine import PREFIX, SUFFIX, MachineClock, MachineUse, OwnRegister, SharedRegister, bury_requests

HOURLY_USD = 3600
"""So that a second costs 1 USD."""


class Time:
    """A clock that is exact: with fractions sums come out even, whatever the order."""

    def __init__(self) -> None:
        self.now: Any = Fraction(0)

    def __call__(self) -> Any:
        return self.now


class Backend(NamedTuple):
    machine: MachineClock | None


class Attempt:
    def __init__(self, clock: MachineClock | None) -> None:
        self.backend = Backend(clock)


EVENTS = st.lists(
    st.tuples(st.fractions(0, 10), st.sampled_from(["enter", "leave", "idle"]), st.integers(0, 50)), max_size=60
)


@given(events=EVENTS)
def test_charged_and_idle_time_are_uptime_exactly_whatever_happens(events: list[tuple[Fraction, str, int]]) -> None:
    time = Time()
    clock = MachineClock(HOURLY_USD, OwnRegister(time.now), time)
    clock._usd_per_s = Fraction(1)  # type: ignore[assignment]
    inside: list[float] = []
    charged: list[Any] = []
    idle = Fraction(0)
    for passed, kind, which in events:
        time.now += passed
        if kind == "enter":
            inside.append(clock.enter())
        elif kind == "leave" and inside:
            charged.append(clock.leave(inside.pop(which % len(inside))))
        else:
            idle += clock.take_idle_usd()  # type: ignore[assignment]
    charged += [clock.leave(entered) for entered in inside]
    assert sum(charged) + idle + clock.take_idle_usd() == time.now
    assert all(usd >= 0 for usd in charged)


def test_request_is_charged_its_share_when_others_come_and_go() -> None:
    time = Time()
    clock = MachineClock(HOURLY_USD, OwnRegister(time.now), time)
    first = clock.enter()
    time.now += 4  # alone
    second = clock.enter()
    time.now += 6  # two
    assert clock.leave(first) == 4 + 3
    time.now += 1  # alone
    assert clock.leave(second) == 3 + 1
    time.now += 5
    assert clock.take_idle_usd() == 5
    assert clock.take_idle_usd() == 0


def test_use_sums_all_attempts_of_a_request_and_ends_with_its_record() -> None:
    time = Time()
    clock = MachineClock(HOURLY_USD, OwnRegister(time.now), time)
    use = MachineUse()
    failed, teachers, draft = Attempt(clock), Attempt(None), Attempt(clock)
    use.began(failed)
    time.now += 2
    use.ended(failed, "timeout")
    use.began(teachers)
    time.now += 50
    use.began(draft)
    time.now += 3
    assert use.close() == 5
    time.now += 7
    use.ended(draft, None)
    use.ended(teachers, None)
    assert use.usd == 5


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / f"{PREFIX}student{SUFFIX}"


ANOTHER_WORKER = """
import sys
from pathlib import Path
from router.machine import MachineClock, SharedRegister
now = float(sys.argv[2])
clock = MachineClock(3600, SharedRegister(Path(sys.argv[1]), lambda: now), lambda: now)
clock.enter()
"""


def test_workers_share_the_time_of_one_machine_when_both_have_requests(shared: Path) -> None:
    time = Time()
    time.now = 0.0
    clock = MachineClock(HOURLY_USD, SharedRegister(shared, time), time)
    mine = clock.enter()
    time.now = 4.0
    worker = subprocess.run([sys.executable, "-c", ANOTHER_WORKER, str(shared), "4.0"], check=False)
    assert worker.returncode == 0
    time.now = 10.0
    assert clock.leave(mine) == pytest.approx(4 + 3)


def test_time_of_requests_that_a_crash_cut_off_counts_as_idle(shared: Path) -> None:
    time = Time()
    time.now = 0.0
    clock = MachineClock(HOURLY_USD, SharedRegister(shared, time), time)
    mine = clock.enter()
    time.now = 1.0
    with subprocess.Popen([sys.executable, "-c", ANOTHER_WORKER, str(shared), "1.0"]) as worker:
        worker.wait()
    time.now = 5.0
    register = SharedRegister(shared, time)
    register.bury(worker.pid, time)
    register.close()
    time.now = 8.0
    charged = clock.leave(mine)
    time.now = 9.0
    idle = clock.take_idle_usd()
    assert charged == pytest.approx(1 + 2 + 3)
    assert charged + idle == pytest.approx(9)


def test_clock_of_a_worker_survives_the_burial_of_one_without_requests(shared: Path) -> None:
    time = Time()
    time.now = 0.0
    clock = MachineClock(HOURLY_USD, SharedRegister(shared, time), time)
    bury_requests(shared.parent, os.getpid() + 1)
    entered = clock.enter()
    time.now = 2.0
    assert clock.leave(entered) == pytest.approx(2)
