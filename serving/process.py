"""One child process of the supervisor: its own process group, a bounded log tail, a stop that always ends."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from serving.launch import Command

logger = logging.getLogger(__name__)

GUARD = Path(__file__).with_name("guard.py")
LOG_TAIL_LINES = 200
LOG_LINE_CHARS = 2_000
READ_BYTES = 65_536
ORPHAN_GRACE_S = 5.0
"""Time that the command gets when the supervisor itself was killed."""
PIPE_DRAIN_S = 1.0


class LogTail:
    """The last lines of a log, whatever the process writes: long lines are cut, old ones forgotten."""

    def __init__(self, *, max_lines: int = LOG_TAIL_LINES) -> None:
        self._lines: deque[str] = deque(maxlen=max_lines)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._open = ""

    def feed(self, data: bytes) -> None:
        *whole, rest = (self._open + self._decoder.decode(data)).replace("\r\n", "\n").split("\n")
        for line in whole:
            self._keep(line)
        # Progress bars redraw one line with carriage returns; only the last state is worth keeping.
        self._open = rest.rsplit("\r", 1)[-1][:LOG_LINE_CHARS]

    def lines(self) -> list[str]:
        return [*self._lines, self._open] if self._open.strip() else list(self._lines)

    def last_line(self) -> str:
        return self._open.strip() or (self._lines[-1] if self._lines else "")

    def _keep(self, line: str) -> None:
        shown = line.rstrip("\r").rsplit("\r", 1)[-1].rstrip()
        if shown:
            self._lines.append(shown[:LOG_LINE_CHARS])


class Child(Protocol):
    """What the supervisor needs of a running process."""

    @property
    def pid(self) -> int: ...

    @property
    def log(self) -> LogTail: ...

    async def wait(self) -> int:
        """Its exit code; 128 + n when signal n ended it."""
        ...

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM); does nothing when it has ended."""
        ...

    def kill(self) -> None:
        """SIGKILL to its whole process group."""
        ...


class Launcher(Protocol):
    """Starts a command. Tests pass their own."""

    async def __call__(self, command: Command) -> Child: ...


class GuardedChild:
    """A command below `guard.py`, in a session of its own."""

    def __init__(self, process: asyncio.subprocess.Process, copy: BinaryIO | None) -> None:
        self._process = process
        self._log = LogTail()
        self._reader = asyncio.create_task(self._read(copy))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> LogTail:
        return self._log

    async def wait(self) -> int:
        code = await self._process.wait()
        # What the process wrote last is usually why it died; a leaked descriptor must not hold us up.
        await asyncio.wait({self._reader}, timeout=PIPE_DRAIN_S)
        self._reader.cancel()
        self.kill()
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _read(self, copy: BinaryIO | None) -> None:
        stream = self._process.stdout
        try:
            while stream is not None and (data := await stream.read(READ_BYTES)):
                self._log.feed(data)
                if copy is not None:
                    copy.write(data)
        except OSError as exc:
            # A full disk must not stop the student; the tail in memory goes on without the file.
            logger.warning("the log file is not written any more: %s", exc)
            await self._read(None)
        finally:
            if copy is not None:
                copy.close()


class GuardedLauncher:
    """Starts commands below the guard; optionally copies their output to a file."""

    def __init__(self, *, log_file: Path | None = None, orphan_grace_s: float = ORPHAN_GRACE_S) -> None:
        self._log_file = log_file
        self._orphan_grace_s = orphan_grace_s

    async def __call__(self, command: Command) -> GuardedChild:
        copy = self._open_copy()
        process = await asyncio.create_subprocess_exec(
            *self.guarded(command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(command.env),
            start_new_session=True,
        )
        return GuardedChild(process, copy)

    def guarded(self, command: Command) -> Sequence[str]:
        """The arguments that run it below the guard; the end of its standard input stands for our death."""
        cores = ",".join(str(core) for core in command.cpu_cores)
        return (sys.executable, "-I", "-S", str(GUARD), str(self._orphan_grace_s), cores, *command.argv)

    def _open_copy(self) -> BinaryIO | None:
        if self._log_file is None:
            return None
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        return self._log_file.open("ab", buffering=0)
