"""Keeps one server process running: ready probe, restart with backoff, hang detection, a stop that always ends."""

from __future__ import annotations

import asyncio
import enum
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

from serving.errors import ProcessFailed
from serving.launch import Command
from serving.probe import Probe, Report
from serving.process import Child, Launcher

logger = logging.getLogger(__name__)

T = TypeVar("T")

FINAL_EXIT_CODES = {2: "it does not accept its arguments", 127: "the command cannot be started"}
"""Before it was ever ready, the same command would fail in the same way again."""
START_ATTEMPTS = 2
"""A process that has never been ready is tried this often: its fault is rarely one that passes."""
STARTING_STOP_TIMEOUT_S = 5.0
"""A process that is not ready has no requests to finish."""


class State(enum.StrEnum):
    """Where a supervised process is in its life."""

    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    """It was ready, its last probes failed, and `hang_timeout_s` has not passed."""
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class Event:
    """Something that an operator wants to see. `elapsed_s` counts from the last launch."""

    name: str
    state: State
    message: str
    elapsed_s: float
    log_tail: tuple[str, ...] = ()


Observer = Callable[[Event], None]


class Clock(Protocol):
    def monotonic(self) -> float: ...

    async def sleep(self, delay_s: float) -> None: ...


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


@dataclass(frozen=True)
class Timing:
    """All waits of a supervisor."""

    startup_timeout_s: float = 900.0
    shutdown_timeout_s: float = 30.0
    hang_timeout_s: float = 60.0
    max_restarts: int = 5
    restart_window_s: float = 600.0
    restart_backoff_s: float = 1.0
    restart_backoff_max_s: float = 60.0
    start_probe_interval_s: float = 0.5
    health_interval_s: float = 2.0
    probe_timeout_s: float = 5.0
    progress_interval_s: float = 5.0
    stop_margin_s: float = 5.0
    """Past `shutdown_timeout_s`, which the server itself spends on running requests."""


def backoff_s(restarts: int, timing: Timing, jitter: Callable[[], float]) -> float:
    """Wait before restart number `restarts` (1 = the first): doubling, capped, times 0.5 to 1 (`jitter` in [0, 1))."""
    full_s = min(timing.restart_backoff_max_s, timing.restart_backoff_s * 2.0 ** min(restarts - 1, 62))
    return full_s * (0.5 + 0.5 * jitter())


@dataclass(frozen=True)
class Runtime:
    """What the supervisor takes from the world; tests pass their own."""

    launcher: Launcher
    probe: Probe
    clock: Clock = field(default_factory=SystemClock)
    jitter: Callable[[], float] = random.random
    observer: Observer = lambda _: None


@dataclass(frozen=True)
class _End:
    """How one life of the process ended; `exit_code` is None when we ended it."""

    reason: str
    exit_code: int | None


class Supervisor:
    """Supervises one command. `async with` starts it in the background and stops it for certain.

    The body of the `async with` runs while the process is still starting: await `ready()` where that matters, and
    `failure()` to learn that it died for good. Nothing is raised into the body by itself.
    """

    def __init__(self, name: str, command: Command, timing: Timing, runtime: Runtime) -> None:
        self.name = name
        self._command = command
        self._timing = timing
        self._runtime = runtime
        self._state = State.STOPPED
        self._changed = asyncio.Condition()
        self._child: Child | None = None
        self._exited: asyncio.Task[int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: ProcessFailed | None = None
        self._report = Report(healthy=False)
        self._crashes: deque[float] = deque()
        self._ever_ready = False
        self._launched_at = 0.0
        self._tail: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        return self._state

    @property
    def report(self) -> Report:
        """The last probe's answer."""
        return self._report

    @property
    def pid(self) -> int | None:
        """The process group's id while a process runs."""
        return self._child.pid if self._child else None

    @property
    def log_tail(self) -> tuple[str, ...]:
        return tuple(self._child.log.lines()) if self._child else self._tail

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Launch in the background. Starting twice is an error."""
        if self._task is not None:
            raise RuntimeError(f"{self.name} has been started already")
        self._state = State.STARTING
        self._launched_at = self._runtime.clock.monotonic()
        self._task = asyncio.create_task(self._supervise(), name=f"supervise {self.name}")

    async def ready(self) -> Report:
        """Wait until it serves.

        Raises:
            ProcessFailed: it died for good, or was stopped.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._state in (State.READY, State.FAILED, State.STOPPED))
        if self._state is not State.READY:
            raise self._failure or ProcessFailed(f"{self.name} was stopped before it was ready", self.log_tail)
        return self._report

    async def failure(self) -> ProcessFailed | None:
        """Wait until supervision ends: the reason when it died for good, None when it was stopped."""
        if self._task is not None:
            await asyncio.wait({self._task})
        return self._failure

    async def stop(self, *, grace_s: float | None = None) -> None:
        """SIGTERM, time for running requests, SIGKILL to the whole process group. Safe to call twice.

        `grace_s` is that time; default: what the server may take for them.
        """
        task = self._task
        if task is None:
            return
        if not task.done():
            if grace_s is None:
                grace_s = self._stop_time_s()
            await self._set(State.STOPPING, f"stopping; running requests get up to {grace_s:g} s")
            task.cancel()
            await asyncio.wait({task})
            await self._end_child(grace_s)
        if self._state is not State.FAILED:
            await self._set(State.STOPPED, "stopped")

    def _stop_time_s(self) -> float:
        if self._state not in (State.READY, State.UNHEALTHY):
            return STARTING_STOP_TIMEOUT_S
        return self._timing.shutdown_timeout_s + self._timing.stop_margin_s

    async def _supervise(self) -> None:
        try:
            while True:
                end = await self._run_once()
                self._count_crash()
                if (final := self._final_reason(end)) is not None:
                    self._failure = ProcessFailed(final, self._tail)
                    await self._set(State.FAILED, final)
                    return
                wait_s = backoff_s(len(self._crashes), self._timing, self._runtime.jitter)
                await self._set(State.RESTARTING, f"{end.reason}; restart in {wait_s:.1f} s", self._tail)
                await self._runtime.clock.sleep(wait_s)
        except Exception as exc:
            # A fault of our own: whoever waits must learn of it, and the process must not run on unwatched.
            logger.exception("supervision of %s broke", self.name)
            self._failure = ProcessFailed(f"{self.name}: supervision broke: {exc!r}", self.log_tail)
            await self._end_child(0.0)
            await self._set(State.FAILED, str(self._failure.reason))

    def _count_crash(self) -> None:
        now = self._runtime.clock.monotonic()
        self._crashes.append(now)
        while now - self._crashes[0] > self._timing.restart_window_s:
            self._crashes.popleft()

    def _final_reason(self, end: _End) -> str | None:
        """Why there is no further restart, or None."""
        crashes = len(self._crashes)
        if not self._ever_ready and end.exit_code in FINAL_EXIT_CODES:
            return f"{self.name} {end.reason}: {FINAL_EXIT_CODES[end.exit_code]}"
        if not self._ever_ready and crashes >= START_ATTEMPTS:
            return f"{self.name} {end.reason}; it was never ready in {crashes} starts"
        if crashes > self._timing.max_restarts:
            window_s = self._timing.restart_window_s
            return f"{self.name} {end.reason}; {crashes} crashes within {window_s:g} s (max_restarts = {crashes - 1})"
        return None

    async def _run_once(self) -> _End:
        """One life of the process; returns why it ended. When cancelled, the process is left to `_end_child`."""
        self._launched_at = self._runtime.clock.monotonic()
        await self._set(State.STARTING, "starting")
        child = self._child = await self._runtime.launcher(self._command)
        exited = self._exited = asyncio.create_task(child.wait())
        problem = await self._watch(exited)
        if problem is not None:
            child.kill()
        code = await exited
        self._forget(child)
        return _End(problem or f"died with {describe_exit(code)}", None if problem else code)

    async def _watch(self, exited: asyncio.Task[int]) -> str | None:
        """Probe until the process ends (None) or must be ended (why)."""
        clock, timing = self._runtime.clock, self._timing
        shown_at = self._launched_at
        failing_since: float | None = None
        was_ready = False
        while True:
            report = await _unless_done(exited, self._runtime.probe(timing.probe_timeout_s))
            if report is None:
                return None
            self._report = report
            now = clock.monotonic()
            if report.ready:
                failing_since = None
                if self._state is not State.READY:
                    was_ready = self._ever_ready = True
                    await self._set(State.READY, "ready")
            elif was_ready:
                # From the first failure, not the last success: a machine that slept is no hung process.
                failing_since = now if failing_since is None else failing_since
                if now - failing_since >= timing.hang_timeout_s:
                    return f"hung: its probe has failed for {now - failing_since:.0f} s ({report.problem})"
                if self._state is State.READY:
                    await self._set(State.UNHEALTHY, f"does not answer its probe ({report.problem})")
            elif now - self._launched_at >= timing.startup_timeout_s:
                return f"was not ready after {timing.startup_timeout_s:g} s ({report.problem})"
            elif now - shown_at >= timing.progress_interval_s:
                shown_at = now
                await self._set(State.STARTING, self._last_line() or "starting")
            interval_s = timing.health_interval_s if was_ready else timing.start_probe_interval_s
            await _unless_done(exited, clock.sleep(interval_s))

    def _last_line(self) -> str:
        return self._child.log.last_line() if self._child else ""

    async def _end_child(self, grace_s: float) -> None:
        """Stop the running process, if any; always ends."""
        child, exited = self._child, self._exited
        if child is None or exited is None:
            return
        child.terminate()
        await _unless_done(exited, self._runtime.clock.sleep(grace_s))
        if not exited.done():
            logger.warning("%s did not stop within %g s; killing it", self.name, grace_s)
            child.kill()
        await asyncio.wait({exited})
        self._forget(child)

    def _forget(self, child: Child) -> None:
        self._tail = tuple(child.log.lines())
        self._child = self._exited = None

    async def _set(self, state: State, message: str, log_tail: tuple[str, ...] = ()) -> None:
        async with self._changed:
            self._state = state
            self._changed.notify_all()
        elapsed_s = self._runtime.clock.monotonic() - self._launched_at
        self._runtime.observer(Event(self.name, state, message, elapsed_s, log_tail))


def describe_exit(code: int) -> str:
    """`exit code 1`, or the signal by which it ended."""
    return f"signal {code - 128}" if code > 128 else f"exit code {code}"


async def _unless_done(exited: asyncio.Task[int], work: Coroutine[object, object, T]) -> T | None:
    """The result of `work`, or None as soon as the process has ended."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, exited}, return_when=asyncio.FIRST_COMPLETED)
        return None if exited.done() else task.result()
    finally:
        task.cancel()
