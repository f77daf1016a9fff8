"""The supervisor, around a real child process: ready, crash, restart, hang, stop."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from pathlib import Path

import httpx
import pytest
import uvloop

from serving.errors import ProcessFailed
from serving.launch import Command
from serving.probe import Report
from serving.process import GuardedLauncher
from serving.supervisor import Runtime, State, Supervisor
from tests.serving.conftest import QUICK, Fake, MakeFake
from tests.serving.processes import alive, post, until


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


async def _never_healthy(timeout_s: float) -> Report:
    await asyncio.sleep(0)
    return Report(healthy=False, problem="refused")


def _listens(fake: Fake) -> bool:
    try:
        return httpx.get(f"{fake.url}/health", timeout=1.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
