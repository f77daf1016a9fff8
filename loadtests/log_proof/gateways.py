"""`locum serve` with two workers: started, killed without warning, started again. Every process is ended by its id."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from loadtests.children import Child, ChildError, descendants
from loadtests.systems import READY_TIMEOUT_S, free_port

Target = Literal["worker", "parent", "all"]
WORKER = "router.workers.worker"
WORKERS = 2
GAVE_UP = "a worker did not start"
"""What a gateway says that ends because one of its first workers died."""
REPLACED_TIMEOUT_S = 30.0
ORPHAN_TIMEOUT_S = 15.0

CONFIG = """\
[server]
port = {port}
workers = {workers}
idle_grace_s = 0.2
drain_timeout_s = 5.0
probe_interval_s = 60.0

[student]
base_url = "http://127.0.0.1:{upstream_port}/v1"
model = "student"
context_window_tokens = 8192

[teacher]
base_url = "http://127.0.0.1:{upstream_port}/v1"
model = "teacher"

[[routing.policies]]
type = "cascade"
escalate_truncated = true

[log]
dir = "{log}"
segment_bytes = {segment_bytes}
write_timeout_s = {write_timeout_s}
fsync_interval_s = 0.2
"""
"""Small segments, so that kills hit the change from one to the next. A draft that ends at its limit is escalated."""


class Gateways:
    """One gateway after the other on the same log, each on a port of its own: orphans may hold the last one's."""

    def __init__(
        self, folder: Path, log: Path, *, upstream_port: int, segment_bytes: int = 32_768, write_timeout_s: float = 20.0
    ) -> None:
        """
        Args:
            write_timeout_s: long, where each answer must wait for its record however slow the machine is.
        """
        self.port = 0
        self.started = 0
        self.orphans_killed = 0
        """Workers that outlived their parent for too long."""
        self._folder = folder
        self._values = {
            "log": log,
            "upstream_port": upstream_port,
            "segment_bytes": segment_bytes,
            "write_timeout_s": write_timeout_s,
            "workers": WORKERS,
        }
        self._child: Child | None = None

    async def start(self) -> None:
        """Returns when it serves. Raises: ChildError."""
        port = free_port()
        config = self._folder / "locum.toml"
        config.write_text(CONFIG.format(port=port, **self._values))
        program = Path(sys.executable).with_name("locum")
        if not program.exists():
            raise ChildError(f"there is no {program}: install the project into this environment (make install)")
        self.started += 1
        child = Child(
            "locum",
            [str(program), "serve", "-c", str(config), "--log-level", "warning"],
            cores=os.sched_getaffinity(0),
            ready_url=f"http://127.0.0.1:{port}/readyz",
            log=self._folder / f"locum-{self.started}.log",
            ready_timeout_s=READY_TIMEOUT_S * 2,
        )
        await asyncio.to_thread(child.__enter__)
        self._child, self.port = child, port

    def workers(self) -> list[int]:
        """Process ids of the workers that live."""
        assert self._child is not None  # noqa: S101 - started
        return [pid for pid in descendants(self._child.pid) if WORKER in _command(pid)]

    async def kill(self, target: Target, index: int) -> None:
        """Kill -9, and return when there are two workers again.

        Args:
            index: which of the workers, modulo their number.
        Raises:
            ChildError: it does not come back.
        """
        assert self._child is not None  # noqa: S101 - started
        workers = self.workers()
        if target == "worker" and workers:
            _kill(workers[index % len(workers)])
            if await self._replaced(set(workers)):
                return
        _kill(self._child.pid)
        if target == "all":
            for pid in workers:
                _kill(pid)
        await self._without_orphans(workers)
        await asyncio.to_thread(self._child.stop)
        await self.start()

    async def stop(self) -> None:
        """In order: it drains."""
        child, self._child = self._child, None
        if child is not None:
            await asyncio.to_thread(child.stop)

    async def _replaced(self, before: set[int]) -> bool:
        """False when the gateway has ended: it gives up when one of its first workers dies before it has started.

        Raises: ChildError: the gateway ended for another reason, or does not replace the worker.
        """
        assert self._child is not None  # noqa: S101 - started
        deadline_s = time.monotonic() + REPLACED_TIMEOUT_S
        while len(now := self.workers()) < WORKERS or set(now) == before:
            try:
                self._child.check_alive()
            except ChildError:
                if GAVE_UP in self._child.log_tail():
                    return False
                raise
            if time.monotonic() > deadline_s:
                raise ChildError(f"the worker was not replaced within {REPLACED_TIMEOUT_S:.0f} s")
            await asyncio.sleep(0.05)
        return True

    async def _without_orphans(self, workers: list[int]) -> None:
        """Workers follow their parent by themselves; those that do not are counted."""
        deadline_s = time.monotonic() + ORPHAN_TIMEOUT_S
        while left := [pid for pid in workers if WORKER in _command(pid)]:
            if time.monotonic() > deadline_s:
                self.orphans_killed += len(left)
                for pid in left:
                    _kill(pid)
                return
            await asyncio.sleep(0.05)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> str:
    """Empty when the process is gone, or dead and not buried."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
