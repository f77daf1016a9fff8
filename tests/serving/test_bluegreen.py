"""Blue/green with real child processes (the fake server): every way from one bundle to the next."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from policies.bundle import Bundle
from serving.bluegreen import StudentSwitch
from serving.errors import LaunchError
from serving.options import VllmOptions, VllmSettings
from serving.probe import HttpProbe
from serving.process import GuardedLauncher
from serving.registry import Registry
from serving.supervisor import Event, Observer, Runtime, State, Supervisor
from serving.switch_state import SwitchState, has_owner, read_state
from tests.serving.bundles import added
from tests.serving.conftest import QUICK, fake_command, free_port
from tests.serving.test_supervisor import alive

POLL_S = 0.02


class Gateway:
    """What the gateway is to the switch: it takes students, and can be slow or unwilling to."""

    def __init__(self) -> None:
        self.installed: list[tuple[str, Path, str]] = []
        self.trouble: Exception | None = None
        self.drained = asyncio.Event()
        self.drained.set()

    async def install(self, bundle: Bundle, folder: Path, base_url: str) -> None:
        if self.trouble is not None:
            raise self.trouble
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{base_url}/models")).status_code == 200, "a student that does not answer"
        self.installed.append((bundle.bundle_id, folder, base_url))
        await self.drained.wait()

    @property
    def ids(self) -> list[str]:
        return [bundle_id for bundle_id, *_ in self.installed]


class Setup:
    """A registry with the bundles a, b and c, a switch, and processes whose behaviour depends on the bundle."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(folder / "students")
        self.a, self.b, self.c = (added(self.registry, weights) for weights in "abc")
        self.gateway = Gateway()
        self.behaviours: dict[str, tuple[str, ...]] = {}
        self.processes: list[tuple[VllmOptions, Supervisor]] = []
        self.events: list[Event] = []
        port = free_port()
        self.settings = VllmSettings(port=port, second_port=free_port())
        self.switch = self.another()

    def another(self) -> StudentSwitch:
        return StudentSwitch(
            self.registry,
            self.settings,
            self.gateway.install,
            launch=self.launch,
            observer=self.events.append,
            poll_interval_s=POLL_S,
        )

    def launch(self, options: VllmOptions, observer: Observer) -> Supervisor:
        bundle_id = Path(options.model).parent.name
        command = fake_command(options.port, *self.behaviours.get(bundle_id, ()))
        probe = HttpProbe(options.base_url, model="student")
        runtime = Runtime(launcher=GuardedLauncher(), probe=probe, observer=observer)
        process = Supervisor("student", command, dataclasses.replace(QUICK, max_restarts=1), runtime)
        self.processes.append((options, process))
        return process

    @property
    def state(self) -> SwitchState | None:
        return read_state(self.registry.root)

    async def reaches(self, phase: str, serving: str | None, sequence: int | None = None) -> SwitchState:
        """Wait until the state file says so."""
        wanted = sequence or (pointer.sequence if (pointer := self.registry.pointer()) else 0)
        return await self.until(
            lambda state: state.phase == phase and state.serving == serving and state.sequence == wanted
        )

    async def until(self, condition: Callable[[SwitchState], bool]) -> SwitchState:
        try:
            async with asyncio.timeout(20):
                while (state := self.state) is None or not condition(state):  # noqa: ASYNC110 - a file has no event
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            pytest.fail(f"stayed at {self.state}")
        return state

    def running(self) -> list[int]:
        """Ports with a process that has not ended."""
        return [options.port for options, process in self.processes if process.pid and alive(process.pid)]


@pytest.fixture
async def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


async def crash(base_url: str | None) -> None:
    assert base_url is not None
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.HTTPError):
            await client.post(base_url.removesuffix("/v1") + "/crash")


async def test_switch_waits_for_the_first_promotion(setup: Setup) -> None:
    async with setup.switch:
        state = await setup.reaches("empty", None)
        assert "locum student promote" in state.message
        assert setup.processes == []
        setup.registry.promote(setup.a)
        state = await setup.reaches("serving", setup.a)
        assert state.process == "ready"
        assert state.base_url == f"http://127.0.0.1:{setup.settings.port}/v1"
    assert setup.gateway.installed == [(setup.a, setup.registry.root / setup.a, state.base_url)]
    assert setup.running() == []


async def test_switch_alternates_ports_and_stops_the_old_one_after_the_new_one_is_installed(setup: Setup) -> None:
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.gateway.drained.clear()
        setup.registry.promote(setup.b)
        state = await setup.until(lambda state: state.phase == "installing")
        assert (state.serving, state.wanted) == (setup.a, setup.b)
        assert sorted(setup.running()) == sorted(setup.settings.ports)
        setup.gateway.drained.set()
        await setup.reaches("serving", setup.b)
        assert setup.running() == [setup.settings.ports[1]]
        setup.registry.rollback()
        await setup.reaches("serving", setup.a)
        assert setup.running() == [setup.settings.ports[0]]
    assert setup.gateway.ids == [setup.a, setup.b, setup.a]
    assert setup.running() == []


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [("exit=1", "never ready in 2 starts"), ("exit=2", "does not accept"), ("mute", "answered with 500.*no words")],
)
async def test_old_student_keeps_serving_when_the_new_one_does_not_start(
    setup: Setup, behaviour: str, reason: str
) -> None:
    setup.behaviours[setup.b] = (behaviour,)
    setup.registry.promote(setup.a)
    async with setup.switch:
        first = await setup.reaches("serving", setup.a)
        setup.registry.promote(setup.b)
        state = await setup.reaches("failed", setup.a)
        assert setup.b in state.message
        assert re.search(reason, state.message), state.message
        assert state.base_url == first.base_url
        assert setup.running() == [setup.settings.port]
        setup.registry.promote(setup.c)
        await setup.reaches("serving", setup.c)
    assert setup.gateway.ids == [setup.a, setup.c]


async def test_state_has_the_log_when_the_new_student_fails(setup: Setup) -> None:
    setup.behaviours[setup.a] = ("exit=1",)
    setup.registry.promote(setup.a)
    async with setup.switch:
        state = await setup.reaches("failed", None)
        assert "RuntimeError: no weights" in state.log_tail
        setup.behaviours.clear()
        setup.registry.promote(setup.a)
        await setup.reaches("serving", setup.a)


async def test_old_student_keeps_serving_when_the_gateway_cannot_take_the_new_one(setup: Setup) -> None:
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.gateway.trouble = ValueError("a calibrator without points")
        setup.registry.promote(setup.b)
        state = await setup.reaches("failed", setup.a)
        assert "a calibrator without points" in state.message
        assert setup.running() == [setup.settings.port]


async def test_old_student_keeps_serving_when_the_model_or_the_port_cannot_be_used(setup: Setup) -> None:
    def refuse(options: VllmOptions, observer: Observer) -> Supervisor:
        raise LaunchError("port: taken")

    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.switch._launch = refuse
        setup.registry.promote(setup.b)
        assert "port: taken" in (await setup.reaches("failed", setup.a)).message
        (setup.registry.root / "current.json").write_text("{")
        state = await setup.until(lambda state: "current.json is damaged" in state.message)
        assert (state.phase, state.serving) == ("failed", setup.a)


async def test_no_process_is_started_when_only_the_threshold_changes(setup: Setup) -> None:
    tuned = setup.registry.derive(setup.a, calibrator=None, cascade_threshold=0.25).bundle_id
    setup.registry.promote(setup.a)
    async with setup.switch:
        before = await setup.reaches("serving", setup.a)
        setup.registry.promote(tuned)
        after = await setup.reaches("serving", tuned)
        assert after.base_url == before.base_url
        assert len(setup.processes) == 1
        assert setup.running() == [setup.settings.port]
        setup.registry.promote(setup.b)
        await setup.reaches("serving", setup.b)
    assert setup.gateway.ids == [setup.a, tuned, setup.b]
    assert setup.running() == []


async def test_switch_ends_at_the_last_one_when_the_pointer_moves_quickly(setup: Setup) -> None:
    setup.behaviours[setup.b] = ("silent",)
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        for bundle_id in (setup.b, setup.c, setup.b, setup.a, setup.b, setup.c):
            setup.registry.promote(bundle_id)
            await asyncio.sleep(POLL_S * 2)
        await setup.reaches("serving", setup.c)
        assert len(setup.running()) == 1
    assert setup.gateway.ids[-1] == setup.c
    assert setup.b not in setup.gateway.ids
    assert setup.running() == []


async def test_loading_student_is_given_up_when_it_is_rolled_back(setup: Setup) -> None:
    setup.behaviours[setup.b] = ("silent",)
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.registry.promote(setup.b)
        await setup.until(lambda state: state.phase == "starting" and state.wanted == setup.b)
        await setup.until(lambda state: "loading weights" in state.message)
        setup.registry.rollback()
        await setup.reaches("serving", setup.a)
        assert setup.running() == [setup.settings.port]
    assert setup.gateway.ids == [setup.a]


async def test_switch_goes_on_when_the_pointer_is_damaged_while_a_load_is_given_up(setup: Setup) -> None:
    setup.behaviours[setup.a] = ("silent",)
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.until(lambda state: state.phase == "starting" and bool(setup.running()))
        setup.registry.promote(setup.b)
        async with asyncio.timeout(20):
            while setup.processes[0][1].state is State.STARTING:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)
        (setup.registry.root / "current.json").write_text("{")
        state = await setup.until(lambda state: state.phase == "failed")
        assert "promote a bundle again" in state.message
        (setup.registry.root / "current.json").unlink()
        setup.registry.promote(setup.c)
        await setup.reaches("serving", setup.c)
    assert setup.gateway.ids == [setup.c]


async def test_newer_pointer_waits_when_an_install_has_begun(setup: Setup) -> None:
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.gateway.drained.clear()
        setup.registry.promote(setup.b)
        await setup.until(lambda state: state.phase == "installing")
        setup.registry.promote(setup.c)
        await asyncio.sleep(POLL_S * 5)
        assert setup.gateway.ids == [setup.a, setup.b]
        setup.gateway.drained.set()
        await setup.reaches("serving", setup.c)
    assert setup.gateway.ids == [setup.a, setup.b, setup.c]


async def test_serving_student_is_restarted_when_it_crashes(setup: Setup) -> None:
    setup.registry.promote(setup.a)
    async with setup.switch:
        state = await setup.reaches("serving", setup.a)
        pid = setup.processes[0][1].pid
        await crash(state.base_url)
        await setup.until(lambda state: state.process != "ready")
        await setup.until(lambda state: state.process == "ready")
        assert setup.processes[0][1].pid != pid
    assert setup.gateway.ids == [setup.a]


async def test_promoting_again_retries_when_the_student_has_died_for_good(setup: Setup) -> None:
    setup.registry.promote(setup.a)
    async with setup.switch:
        state = await setup.reaches("serving", setup.a)
        for _ in range(2):
            await setup.until(lambda state: state.process == "ready")
            await setup.processes[0][1].ready()
            await crash(state.base_url)
            await setup.until(lambda state: state.process != "ready")
        state = await setup.reaches("failed", None)
        assert "ValueError: the engine has run out of luck" in state.log_tail
        setup.registry.promote(setup.a)
        await setup.reaches("serving", setup.a)
    assert setup.running() == []


async def test_last_good_student_serves_when_a_restarted_gateway_finds_one_that_does_not_start(setup: Setup) -> None:
    setup.behaviours[setup.b] = ("exit=2",)
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.registry.promote(setup.b)
        await setup.reaches("failed", setup.a)
    state = await setup.reaches("stopped", setup.a)
    assert state.process is None
    async with setup.another():
        state = await setup.reaches("failed", setup.a)
        assert f"{setup.b} does not serve" in state.message
        assert f"{setup.a} serves instead" in state.message


@pytest.mark.parametrize("phase", ["starting", "installing", "serving"])
async def test_no_child_is_left_when_the_gateway_stops(setup: Setup, phase: str) -> None:
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        assert has_owner(setup.registry.root)
        if phase != "serving":
            setup.behaviours[setup.b] = ("silent",) if phase == "starting" else ()
            setup.gateway.drained.clear()
            setup.registry.promote(setup.b)
        await setup.until(lambda state: state.phase == phase)
    assert setup.running() == []
    assert all(process.state in (State.STOPPED, State.FAILED) for _, process in setup.processes)
    assert setup.state is not None
    assert setup.state.phase == "stopped"
    assert not has_owner(setup.registry.root)


async def test_second_gateway_is_refused_when_one_serves_the_registry(setup: Setup) -> None:
    async with setup.switch:
        await setup.reaches("empty", None)
        with pytest.raises(LaunchError, match=rf"another gateway \(process {os.getpid()}\) serves"):
            await setup.another().__aenter__()
    async with setup.another():
        pass


async def test_window_of_the_configuration_wins_over_the_bundles(setup: Setup) -> None:
    wide = added(setup.registry, "w", context_window_tokens=512)
    setup.registry.promote(wide)
    async with setup.switch:
        await setup.reaches("serving", wide)
    assert setup.processes[0][0].context_window_tokens == 512
    setup.settings = VllmSettings(port=free_port(), context_window_tokens=256)
    async with setup.another():
        await setup.reaches("serving", wide)
    assert setup.processes[1][0].context_window_tokens == 256
