"""How often, and how late, a process that keeps dying is started again; on a clock of its own."""

from __future__ import annotations

import asyncio

from serving.launch import Command
from serving.probe import Report
from serving.process import LogTail
from serving.supervisor import Event, Runtime, State, Supervisor, Timing, backoff_s
from tests.serving.processes import until


class FakeClock:
    """Time passes only in `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, delay_s: float) -> None:
        self.now += delay_s
        self.slept.append(delay_s)
        await asyncio.sleep(0)


class ShortLife:
    """A child that is ready for `life_s` and then exits with code 1."""

    pid = 1

    def __init__(self, clock: FakeClock, life_s: float) -> None:
        self.log = LogTail()
        self._clock, self._ends_at = clock, clock.now + life_s

    async def wait(self) -> int:
        while self._clock.now < self._ends_at:  # noqa: ASYNC110 - fake time passes elsewhere
            await asyncio.sleep(0)
        return 1

    def terminate(self) -> None:
        self._ends_at = 0.0

    kill = terminate


async def _always_ready(timeout_s: float) -> Report:
    await asyncio.sleep(0)
    return Report(healthy=True)


async def run_short_lives(life_s: float, timing: Timing, *, launches: int) -> tuple[list[Event], FakeClock, Supervisor]:
    """Run until it gives up or has launched that often."""
    clock, events, started = FakeClock(), [], 0

    async def launch(command: Command) -> ShortLife:
        nonlocal started
        started += 1
        if started > launches:
            await asyncio.sleep(3600)
        return ShortLife(clock, life_s)

    runtime = Runtime(launch, _always_ready, clock=clock, jitter=lambda: 1.0, observer=events.append)
    supervisor = Supervisor("student", Command((), {}), timing, runtime)
    async with supervisor:
        await until(lambda: started > launches or supervisor.state is State.FAILED)
    return events, clock, supervisor


async def test_restarts_wait_longer_each_time_up_to_the_limit() -> None:
    timing = Timing(health_interval_s=0.75, restart_backoff_s=1.0, restart_backoff_max_s=5.0, max_restarts=5)
    events, clock, supervisor = await run_short_lives(4.0, timing, launches=99)
    assert [delay for delay in clock.slept if delay != timing.health_interval_s] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert sum(event.state is State.RESTARTING for event in events) == 5
    assert supervisor.state is State.FAILED


async def test_restarts_go_on_for_ever_when_crashes_are_rare() -> None:
    timing = Timing(health_interval_s=60.0, restart_window_s=600.0, max_restarts=1)
    events, _, supervisor = await run_short_lives(1000.0, timing, launches=10)
    assert sum(event.state is State.RESTARTING for event in events) == 10
    assert supervisor.state is State.STOPPED


def test_backoff_is_jittered_down_to_half() -> None:
    timing = Timing(restart_backoff_s=1.0, restart_backoff_max_s=60.0)
    assert [backoff_s(n, timing, lambda: 0.0) for n in (1, 2, 3, 10, 10_000)] == [0.5, 1.0, 2.0, 30.0, 30.0]
