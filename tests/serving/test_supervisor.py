"""The supervisor, around a real child process: ready, crash, restart, hang, stop."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import uvloop

from serving.errors import ProcessFailed
from serving.launch import Command
from serving.probe import Report
from serving.process import GuardedLauncher, LogTail
from serving.supervisor import Event, Runtime, State, Supervisor, Timing, backoff_s
from tests.serving.conftest import QUICK, Fake, MakeFake


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the child's state has no event
            await asyncio.sleep(0.01)


async def post(fake: Fake, path: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            await client.post(f"{fake.url}{path}")
        except httpx.HTTPError:
            assert path == "/crash"


async def test_supervisor_is_ready_when_the_served_name_is_listed(make_fake: MakeFake) -> None:
    fake = make_fake()
    async with fake.supervisor as supervisor:
        report = await supervisor.ready()
        assert report.models[0].window_tokens == 2048
        pid = supervisor.pid
        assert pid is not None
        assert alive(pid)
    assert not alive(pid)
    assert fake.states() == [State.STARTING, State.READY, State.STOPPING, State.STOPPED]


@pytest.mark.system
async def test_supervisor_restarts_the_process_when_it_crashes(make_fake: MakeFake) -> None:
    fake = make_fake()
    async with fake.supervisor as supervisor:
        await supervisor.ready()
        await post(fake, "/crash")
        await until(lambda: supervisor.state is not State.READY)
        await supervisor.ready()
    restart = next(event for event in fake.events if event.state is State.RESTARTING)
    assert "exit code 1" in restart.message
    assert "ValueError: the engine has run out of luck" in restart.log_tail
    # A probe may fail before the exit is noticed.
    lived = [state for state in fake.states() if state is not State.UNHEALTHY]
    assert lived[:5] == [State.STARTING, State.READY, State.RESTARTING, State.STARTING, State.READY]


@pytest.mark.system
async def test_supervisor_gives_up_with_the_log_when_crashes_pile_up(make_fake: MakeFake) -> None:
    fake = make_fake(timing=dataclasses.replace(QUICK, max_restarts=2))
    async with fake.supervisor as supervisor:
        for _ in range(3):
            await supervisor.ready()
            await post(fake, "/crash")
            await until(lambda: supervisor.state is not State.READY)
        failure = await supervisor.failure()
        with pytest.raises(ProcessFailed):
            await supervisor.ready()
    assert failure is not None
    assert "3 crashes within 600 s (max_restarts = 2)" in failure.reason
    assert "Likely cause: ValueError: the engine has run out of luck" in str(failure)
    assert "Engine core initialization failed." in failure.log_tail
    assert supervisor.state is State.FAILED


async def test_supervisor_gives_up_at_once_when_the_arguments_are_wrong(make_fake: MakeFake) -> None:
    fake = make_fake("exit=2")
    async with fake.supervisor as supervisor:
        with pytest.raises(ProcessFailed, match="does not accept its arguments"):
            await supervisor.ready()
    assert fake.states() == [State.STARTING, State.FAILED]


@pytest.mark.system
async def test_supervisor_gives_up_after_two_starts_when_it_was_never_ready(make_fake: MakeFake) -> None:
    fake = make_fake("exit=1")
    async with fake.supervisor as supervisor:
        with pytest.raises(ProcessFailed, match="never ready in 2 starts") as caught:
            await supervisor.ready()
    assert "Likely cause: RuntimeError: no weights" in str(caught.value)


async def test_supervisor_says_so_when_the_command_cannot_be_started() -> None:
    command = Command(argv=("/nowhere/python",), env={})
    runtime = Runtime(launcher=GuardedLauncher(), probe=_never_healthy)
    async with Supervisor("student", command, QUICK, runtime) as supervisor:
        with pytest.raises(ProcessFailed, match="the command cannot be started"):
            await supervisor.ready()


async def test_supervisor_stops_waiting_when_start_takes_too_long(make_fake: MakeFake) -> None:
    fake = make_fake("silent", timing=dataclasses.replace(QUICK, startup_timeout_s=0.3))
    async with fake.supervisor as supervisor:
        with pytest.raises(ProcessFailed, match=r"was not ready after 0\.3 s"):
            await supervisor.ready()


async def test_supervisor_shows_the_last_log_line_as_progress_while_it_starts(make_fake: MakeFake) -> None:
    fake = make_fake("silent")
    async with fake.supervisor:
        await until(lambda: any(event.message == "loading weights" for event in fake.events))
    (progress,) = {event.state for event in fake.events if event.message == "loading weights"}
    assert progress is State.STARTING


@pytest.mark.system
async def test_supervisor_restarts_a_ready_process_when_it_hangs(make_fake: MakeFake) -> None:
    fake = make_fake(timing=dataclasses.replace(QUICK, hang_timeout_s=0.2))
    async with fake.supervisor as supervisor:
        await supervisor.ready()
        first = supervisor.pid
        await post(fake, "/sick")
        await until(lambda: State.RESTARTING in fake.states())
        await supervisor.ready()
        assert supervisor.pid != first
    assert State.UNHEALTHY in fake.states()
    assert any("hung" in event.message and "503" in event.message for event in fake.events)


@pytest.mark.system
async def test_supervisor_recovers_without_restart_when_the_process_answers_again(make_fake: MakeFake) -> None:
    fake = make_fake()
    async with fake.supervisor as supervisor:
        await supervisor.ready()
        await post(fake, "/sick")
        await until(lambda: supervisor.state is State.UNHEALTHY)
        await post(fake, "/well")
        await supervisor.ready()
    assert State.RESTARTING not in fake.states()


@pytest.mark.system
async def test_supervisor_kills_the_process_when_it_ignores_sigterm(make_fake: MakeFake) -> None:
    fake = make_fake("stubborn", timing=dataclasses.replace(QUICK, shutdown_timeout_s=0.1, stop_margin_s=0.1))
    async with fake.supervisor as supervisor:
        await supervisor.ready()
        pid = supervisor.pid
        assert pid is not None
    assert not alive(pid)
    await until(lambda: not _listens(fake))


@pytest.mark.system
async def test_supervisor_leaves_no_grandchild_when_the_process_dies(make_fake: MakeFake, tmp_path: Path) -> None:
    """vLLM's engine is a child of its API process; it must not keep the memory when that one is killed."""
    engine = tmp_path / "engine.pid"
    fake = make_fake("engine", str(engine), timing=dataclasses.replace(QUICK, max_restarts=0))
    async with fake.supervisor as supervisor:
        await supervisor.ready()
        engine_pid = int(engine.read_text())
        assert alive(engine_pid)
        await post(fake, "/crash")
        await supervisor.failure()
        await until(lambda: not alive(engine_pid))


@pytest.mark.system
async def test_supervisor_leaves_nothing_behind_when_its_own_process_is_killed(tmp_path: Path) -> None:
    engine = tmp_path / "engine.pid"
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, os, signal\n"
        "from serving.process import GuardedLauncher\n"
        "from tests.serving.conftest import fake_command, free_port\n"
        "async def main():\n"
        f"    await GuardedLauncher(orphan_grace_s=0.2)(fake_command(free_port(), 'engine', {str(engine)!r}, 'stubborn'))\n"
        f"    while not os.path.exists({str(engine)!r}): await asyncio.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    root = str(Path(__file__).parents[2])
    parent = await asyncio.create_subprocess_exec(sys.executable, str(script), env={"PYTHONPATH": root})
    assert await parent.wait() == -9
    engine_pid = int(engine.read_text())
    await until(lambda: not alive(engine_pid))


async def test_log_file_gets_what_the_process_writes(make_fake: MakeFake, tmp_path: Path) -> None:
    log_file = tmp_path / "logs" / "student.log"
    fake = make_fake(log_file=log_file)
    async with fake.supervisor as supervisor:
        await supervisor.ready()
        assert "loading weights" in supervisor.log_tail
    assert log_file.read_text() == "loading weights\n"


async def test_child_is_confined_to_its_cores(make_fake: MakeFake) -> None:
    fake = make_fake(cpu_cores=(0,))
    async with fake.supervisor as supervisor:
        await supervisor.ready()
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.post(f"{fake.url}/well")).json()["affinity"] == [0]


def test_supervisor_works_when_the_loop_is_uvloop(make_fake: MakeFake) -> None:
    """The gateway runs on uvloop, and builds its supervisor before there is a loop."""
    fake = make_fake()

    async def live() -> int | None:
        async with fake.supervisor as supervisor:
            await supervisor.ready()
            return supervisor.pid

    pid = uvloop.run(live())
    assert pid is not None
    assert not alive(pid)


async def test_stop_is_harmless_when_called_twice_or_before_start(make_fake: MakeFake) -> None:
    supervisor = make_fake().supervisor
    await supervisor.stop()
    async with supervisor:
        pass
    await supervisor.stop()
    assert supervisor.state is State.STOPPED


async def test_waiters_learn_of_it_when_supervision_itself_breaks(make_fake: MakeFake) -> None:
    async def broken(command: Command) -> None:
        raise PermissionError("no more processes")

    fake = make_fake(launcher=broken)
    async with fake.supervisor as supervisor:
        with pytest.raises(ProcessFailed, match="no more processes"):
            await supervisor.ready()


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


async def _never_healthy(timeout_s: float) -> Report:
    await asyncio.sleep(0)
    return Report(healthy=False, problem="refused")


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


def _listens(fake: Fake) -> bool:
    try:
        return httpx.get(f"{fake.url}/health", timeout=1.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_log_tail_is_bounded_and_keeps_the_last_state_of_progress_bars() -> None:
    tail = LogTail(max_lines=3)
    for n in range(1000):
        tail.feed(f"line {n}\n".encode())
    tail.feed(b"loading 0%\rloading 50%\rloading 100%\nhalf ")
    assert tail.lines() == ["line 998", "line 999", "loading 100%", "half "]
    tail.feed("a \N{SNOWMAN}".encode()[:-1])
    tail.feed("\N{SNOWMAN}".encode()[-1:] + b"\n")
    assert tail.last_line() == "half a \N{SNOWMAN}"
    tail.feed(b"x" * 10_000_000)
    assert len(tail.last_line()) == 2000
