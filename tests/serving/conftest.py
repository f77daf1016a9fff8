"""A supervisor around a real child process, with short waits."""

from __future__ import annotations

import dataclasses
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serving.launch import Command
from serving.probe import HttpProbe
from serving.process import GuardedLauncher
from serving.supervisor import Event, Runtime, State, Supervisor, Timing

FAKE_SERVER = Path(__file__).with_name("fake_server.py")
QUICK = Timing(
    startup_timeout_s=20.0,
    shutdown_timeout_s=5.0,
    hang_timeout_s=20.0,
    restart_backoff_s=0.01,
    restart_backoff_max_s=0.05,
    start_probe_interval_s=0.02,
    health_interval_s=0.02,
    probe_timeout_s=2.0,
    progress_interval_s=0.05,
    stop_margin_s=5.0,
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def fake_command(port: int, *behaviours: str, **env: str) -> Command:
    return Command(argv=(sys.executable, str(FAKE_SERVER), str(port), *behaviours), env=env)


@dataclass
class Fake:
    """A supervised fake server and what its supervisor reported."""

    supervisor: Supervisor
    url: str
    events: list[Event] = field(default_factory=list)

    def states(self) -> list[State]:
        """Without repetitions."""
        seen = [event.state for event in self.events]
        return [state for index, state in enumerate(seen) if index == 0 or seen[index - 1] is not state]


MakeFake = Callable[..., Fake]


@pytest.fixture
def make_fake() -> MakeFake:
    def make(
        *behaviours: str,
        timing: Timing = QUICK,
        log_file: Path | None = None,
        cpu_cores: tuple[int, ...] = (),
        **runtime: Any,
    ) -> Fake:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        events: list[Event] = []
        parts = {
            "launcher": GuardedLauncher(log_file=log_file),
            "probe": HttpProbe(f"{url}/v1", model="student"),
            "observer": events.append,
            **runtime,
        }
        command = dataclasses.replace(fake_command(port, *behaviours), cpu_cores=cpu_cores)
        return Fake(Supervisor("student", command, timing, Runtime(**parts)), url, events)

    return make
