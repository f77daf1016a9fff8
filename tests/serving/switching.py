"""A registry, a gateway and a `StudentSwitch` between them, on real child processes or on simulated ones.

What the switch does with processes is the same for both; simulated ones spare most tests the seconds that interpreters
take to start. That the supervisor handles real ones is shown in test_supervisor.py, and that both fit together in
test_bluegreen_processes.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from policies.bundle import Bundle
from serving.bluegreen import StudentSwitch, Waits
from serving.errors import ProcessFailed
from serving.launch import Command
from serving.options import VllmOptions, VllmSettings
from serving.probe import HttpProbe, Report, ServedModel
from serving.process import GuardedLauncher, LogTail
from serving.registry import Registry
from serving.standby import OneTokenRequest
from serving.supervisor import Event, Observer, Runtime, Supervisor
from serving.switch_state import SwitchState, read_state
from tests.serving.bundles import added
from tests.serving.conftest import QUICK, fake_command, free_port
from tests.serving.processes import alive

POLL_S = 0.01
KILLED = 137
Behaviours = tuple[str, ...]


class SimulatedChild:
    """What fake_server.py is, without a process. Behaviours: `exit=CODE`, `silent`, `mute`, `stubborn`."""

    _pids = itertools.count(1_000_000)

    def __init__(self, behaviours: Behaviours) -> None:
        self.pid = next(self._pids)
        self.log = LogTail()
        self.behaviours = behaviours
        self._exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.log.feed(b"loading weights\n")
        for behaviour in behaviours:
            if behaviour.startswith("exit="):
                self.log.feed(b"RuntimeError: no weights\n")
                self._exit(int(behaviour.removeprefix("exit=")))

    @property
    def alive(self) -> bool:
        return not self._exited.done()

    @property
    def answers(self) -> bool:
        return self.alive and "silent" not in self.behaviours

    async def wait(self) -> int:
        return await asyncio.shield(self._exited)

    def terminate(self) -> None:
        if "stubborn" not in self.behaviours:
            self._exit(0)

    def kill(self) -> None:
        self._exit(KILLED)

    def crash(self) -> None:
        self.log.feed(b"ValueError: the engine has run out of luck\nEngine core initialization failed.\n")
        self._exit(1)

    def _exit(self, code: int) -> None:
        if self.alive:
            self._exited.set_result(code)


class Gateway:
    """What the gateway is to the switch: it takes students, and can be slow or unwilling to."""

    def __init__(self, answers: Callable[[str], bool]) -> None:
        self._answers = answers
        self.installed: list[tuple[str, Path, str]] = []
        self.trouble: Exception | None = None
        self.drained = asyncio.Event()
        self.drained.set()

    async def install(self, bundle: Bundle, folder: Path, base_url: str) -> None:
        if self.trouble is not None:
            raise self.trouble
        assert self._answers(base_url), "a student that does not answer"
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
        self.gateway = Gateway(self.answers)
        self.behaviours: dict[str, Behaviours] = {}
        self.processes: list[tuple[VllmOptions, Supervisor]] = []
        self.events: list[Event] = []
        self.timing = dataclasses.replace(
            QUICK, max_restarts=1, start_probe_interval_s=POLL_S / 2, health_interval_s=POLL_S / 2
        )
        self.settings = VllmSettings(port=free_port(), second_port=free_port())
        self.warmth = asyncio.Event()
        """Cleared, no student answers its first request."""
        self.warmth.set()
        self._children: dict[int, SimulatedChild] = {}
        """By port."""
        self.switch = self.another()

    def another(self) -> StudentSwitch:
        return StudentSwitch(
            self.registry,
            self.settings,
            self.gateway.install,
            launch=self.launch,
            warm=self.warm,
            observer=self.events.append,
            waits=Waits(poll_s=POLL_S, owner_s=0.1),
        )

    def launch(self, options: VllmOptions, observer: Observer) -> Supervisor:
        behaviours = self.behaviours.get(Path(options.model).parent.name, ())

        async def start(_: Command) -> SimulatedChild:
            child = self._children[options.port] = SimulatedChild(behaviours)
            return child

        async def probe(_: float) -> Report:
            if not self.answers(options.base_url):
                return Report(healthy=False, problem="ConnectError")
            return Report(healthy=True, models=(ServedModel(name="student", window_tokens=2048),))

        return self._supervised(options, Runtime(launcher=start, probe=probe, observer=observer), ())

    def _supervised(self, options: VllmOptions, runtime: Runtime, behaviours: Behaviours) -> Supervisor:
        process = Supervisor("student", fake_command(options.port, *behaviours), self.timing, runtime)
        self.processes.append((options, process))
        return process

    async def warm(self, options: VllmOptions) -> None:
        await self.warmth.wait()
        if "mute" in self._children[options.port].behaviours:
            raise ProcessFailed("its first request was answered with 500")

    def answers(self, base_url: str) -> bool:
        child = self._children.get(httpx.URL(base_url).port or 0)
        return child is not None and child.answers

    def crash(self, base_url: str | None) -> None:
        self._children[httpx.URL(base_url or "").port or 0].crash()

    def running(self) -> list[int]:
        """Ports with a process that has not ended."""
        return [port for port, child in self._children.items() if child.alive]

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
                    await asyncio.sleep(POLL_S / 2)
        except TimeoutError:
            pytest.fail(f"stayed at {self.state}")
        return state


class RealSetup(Setup):
    """The same with child processes (fake_server.py), asked over HTTP."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.timing = dataclasses.replace(QUICK, max_restarts=1)

    def launch(self, options: VllmOptions, observer: Observer) -> Supervisor:
        probe = HttpProbe(options.base_url, model="student")
        runtime = Runtime(launcher=GuardedLauncher(), probe=probe, observer=observer)
        return self._supervised(options, runtime, self.behaviours.get(Path(options.model).parent.name, ()))

    async def warm(self, options: VllmOptions) -> None:
        await OneTokenRequest({})(options)

    def answers(self, base_url: str) -> bool:
        return httpx.get(f"{base_url}/models", trust_env=False).status_code == 200

    def running(self) -> list[int]:
        return [options.port for options, process in self.processes if process.pid and alive(process.pid)]
