"""A worker as its parent sees it: started, told about students, stopped, and buried when it has ended."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from router.workers.control import Install, Installed, Line, Ready, Refused

logger = logging.getLogger(__name__)

LAST_WORDS_S = 1.0
"""A worker that has closed its line ends by itself within this time, or is told to."""


class WorkerFailed(RuntimeError):
    """A worker did not come to serve; its own messages say why."""


class WorkerRefused(WorkerFailed):
    """It cannot use the configuration; the message names the key."""


@dataclass(frozen=True)
class WorkerSpec:
    """How every worker is started."""

    config_path: Path
    listener: socket.socket
    state_path: Path | None
    """Socket of the shared memory; None with Redis."""
    log_level: str
    environ: Mapping[str, str]
    start_timeout_s: float
    stop_timeout_s: float
    on_end: Callable[[int], None]
    """Gets the process id of a worker that has ended."""

    def command(self, control: socket.socket) -> list[str]:
        options = [str(self.config_path), "--listen-fd", str(self.listener.fileno())]
        options += ["--control-fd", str(control.fileno()), "--log-level", self.log_level]
        if self.state_path is not None:
            options += ["--state", str(self.state_path)]
        return [sys.executable, "-P", "-m", "router.workers.worker", *options]


class Child:
    """One running worker."""

    def __init__(self, spec: WorkerSpec, process: asyncio.subprocess.Process, line: Line) -> None:
        self._spec = spec
        self._process = process
        self._line = line
        self._started_s = time.monotonic()
        self._asking = asyncio.Lock()
        self._end = asyncio.create_task(self._wait())

    @classmethod
    async def start(cls, spec: WorkerSpec) -> Self:
        """Returns when it accepts connections. Raises: WorkerFailed, WorkerRefused."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *spec.command(theirs),
                stdin=asyncio.subprocess.DEVNULL,
                env=spec.environ,
                pass_fds=(spec.listener.fileno(), theirs.fileno()),
                start_new_session=True,  # a Ctrl-C at the terminal is the parent's to handle
            )
        child = cls(spec, process, await Line.over(ours))
        try:
            async with asyncio.timeout(spec.start_timeout_s):
                line = await child._line.next()
        except TimeoutError:
            line = None
        except asyncio.CancelledError:
            await child.stop()
            raise
        if line is None:
            with suppress(TimeoutError):  # a signal to a process that is ending would hide its exit code
                async with asyncio.timeout(LAST_WORDS_S):
                    await child.ended()
            await child.stop()
            raise WorkerFailed(f"a worker did not start (exit code {child.exit_code})")
        said = msgspec.json.decode(line, type=Ready | Refused)
        if isinstance(said, Refused):
            await child.stop()
            raise WorkerRefused(said.problem)
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    @property
    def lived_s(self) -> float:
        return time.monotonic() - self._started_s

    async def install(self, wanted: Install) -> str | None:
        """Returns the problem, if there is one; a worker that dies meanwhile has none: its successor is told."""
        async with self._asking:
            with suppress(ConnectionError):
                await self._line.tell(wanted)
                line = await self._line.next()
                if line is not None:
                    return msgspec.json.decode(line, type=Installed).problem
        return None

    async def ended(self) -> None:
        """Wait for its end."""
        await asyncio.shield(self._end)

    async def stop(self) -> bool:
        """Let it drain. Returns False when it had to be killed."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._spec.stop_timeout_s):
                await self.ended()
        except TimeoutError:
            logger.error("worker %d does not end; it is killed", self.pid)
            self.signal(signal.SIGKILL)
            await self.ended()
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _wait(self) -> None:
        await self._process.wait()
        self._line.close()
        self._spec.on_end(self.pid)
