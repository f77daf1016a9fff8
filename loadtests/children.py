"""Child processes of the benchmark: started on given cores, watched in /proc, ended by their process id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import httpx

LOG_TAIL_BYTES = 4_000
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05


class ChildError(RuntimeError):
    """A child did not start or died; the message holds the end of its log."""


class Child:
    """One process, with its descendants, pinned to cores. A context manager: leaving ends it."""

    def __init__(
        self, name: str, command: Sequence[str], *, cores: set[int], ready_url: str, log: Path, ready_timeout_s: float
    ) -> None:
        self.name = name
        self._command = list(command)
        self._cores = cores
        self._ready_url = ready_url
        self._log = log
        self._ready_timeout_s = ready_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Child:
        with self._log.open("wb") as log:
            before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, self._cores)  # inherited by the child and all its threads
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches only us, and we end our children in order
                )
            except OSError as exc:
                raise ChildError(f"{self.name}: cannot start {self._command[0]}: {exc}") from exc
            finally:
                os.sched_setaffinity(0, before)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ChildError(f"{self.name} is not running")
        return self._process.pid

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to what is left of the process's own session."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the session that we made for it: orphaned workers, if any

    def check_alive(self) -> None:
        """Raises: ChildError."""
        if self._process is None or self._process.poll() is not None:
            code = None if self._process is None else self._process.returncode
            raise ChildError(f"{self.name} ended with {code}; its log ends with:\n{self.log_tail()}")

    def log_tail(self) -> str:
        text = self._log.read_bytes()[-LOG_TAIL_BYTES:] if self._log.exists() else b""
        return text.decode("utf-8", "replace").strip()

    def rss_bytes(self) -> int:
        """Resident memory of the process and its descendants (shared pages count in each)."""
        return sum(_rss_bytes(pid) for pid in (self.pid, *descendants(self.pid)))

    def descriptors(self) -> int:
        """Open descriptors of the process and its descendants."""
        return sum(_descriptors(pid) for pid in (self.pid, *descendants(self.pid)))

    def cpu_s(self) -> float:
        """CPU time used so far by the process and its living descendants."""
        return sum(_cpu_s(pid) for pid in (self.pid, *descendants(self.pid)))

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + self._ready_timeout_s
        while time.monotonic() < deadline_s:
            self.check_alive()
            with contextlib.suppress(httpx.HTTPError):  # not listening yet
                if httpx.get(self._ready_url, timeout=2.0, trust_env=False).status_code == 200:
                    return
            time.sleep(POLL_S)
        raise ChildError(
            f"{self.name} did not answer 200 at {self._ready_url} within {self._ready_timeout_s:.0f} s; its log ends "
            f"with:\n{self.log_tail()}"
        )


def descendants(pid: int) -> list[int]:
    """Process ids of all living descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat_fields(int(entry.name))
            if fields:
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, pending = [], [pid]
    while pending:
        children = parents.get(pending.pop(), [])
        found += children
        pending += children
    return found


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command name; empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _cpu_s(pid: int) -> float:
    fields = _stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _rss_bytes(pid: int) -> int:
    fields = _stat_fields(pid)
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def _descriptors(pid: int) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # gone
        return 0


class ForeignCpu:
    """How much of some cores went to processes that are neither we nor our children, since this was made."""

    def __init__(self, cores: set[int]) -> None:
        self._cores = cores
        self._start_s = time.monotonic()
        self._busy_s = _busy_s(cores)
        self._own_s = _own_cpu_s()

    def share(self) -> float:
        """In [0, 1], of all of the cores together."""
        elapsed_s = (time.monotonic() - self._start_s) * len(self._cores)
        foreign_s = (_busy_s(self._cores) - self._busy_s) - (_own_cpu_s() - self._own_s)
        return min(1.0, max(0.0, foreign_s / elapsed_s)) if elapsed_s else 0.0


def _own_cpu_s() -> float:
    used = os.times()
    ours = used.user + used.system + used.children_user + used.children_system
    return ours + sum(_cpu_s(pid) for pid in descendants(os.getpid()))


def _busy_s(cores: set[int]) -> float:
    """Time in which these cores did not idle, since boot."""
    busy = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, rest.split()[:8])
            busy += user + nice + system + irq + softirq + steal
    return busy / os.sysconf("SC_CLK_TCK")
