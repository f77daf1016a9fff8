"""Compaction and retention by themselves: a child process of the lowest priority, in one process of a gateway.

DuckDB and Parquet never load into the process that serves. The child gets only the time that nobody else wants
(SCHED_IDLE where there is one, else nice 19) and one thread; when the gateway ends meanwhile it is stopped, which does
no harm at any point (router/log/workspace.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from router.config import ConfigError, LogConfig

logger = logging.getLogger(__name__)

MEMORY_LIMIT = "512MB"
STOP_S = 5.0
_START = "from router.cli import main; main()"
_LAST_CHARS = 500


def check(config: LogConfig) -> None:
    """Raises: ConfigError: what compaction needs is not installed."""
    if config.compact_every_s:
        missing = [name for name in ("duckdb", "fsspec", "pyarrow") if find_spec(name) is None]
        if missing:
            raise ConfigError("log.compact_every_s", [f"needs {missing[0]}: pip install 'locum[loop]'"])


class BackgroundCompaction:
    """An async context manager: from its start on the log is compacted every `log.compact_every_s`."""

    def __init__(self, config: LogConfig, path: Path) -> None:
        """
        Args:
            path: of the gateway's configuration, which the child reads.
        """
        self._every_s = config.compact_every_s
        self._command = [
            sys.executable, "-P", "-c", _START, "log", "compact", "--config", str(path.absolute()), "--scheduled",
            "--memory-limit", MEMORY_LIMIT,
        ]  # fmt: skip
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._once()
            except OSError as exc:
                logger.error("traffic log: no process for the compaction: %s", exc.strerror)

    async def _once(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        _lower_priority(process.pid)
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            await _stop(process)
            raise
        said = " ".join(output.decode(errors="replace").split())[-_LAST_CHARS:]
        if process.returncode:
            logger.error("traffic log: the compaction ended with %d: %s", process.returncode, said)
        else:
            logger.info("traffic log: compacted: %s", said)


def _lower_priority(pid: int) -> None:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 19)
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


async def _stop(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
