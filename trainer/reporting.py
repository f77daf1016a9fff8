"""What a person sees of a run: one moving line with the time left on a terminal, else a plain line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

PLAIN_INTERVAL_S = 10.0


class Reporter(Protocol):
    """Receives what happens in a run."""

    def started(self, stage: str, at: int, of: int, *, resumed: bool) -> None:
        """A stage begins, the `at`-th `of` this run."""
        ...

    def progress(self, done: int, total: int | None, unit: str) -> None:
        """See trainer.stage.Progress."""
        ...

    def note(self, line: str) -> None:
        """Anything else worth a line."""
        ...

    def finished(self, stage: str, seconds: float, result: str) -> None: ...

    def close(self) -> None: ...


class EtaClock:
    """Time left by the mean speed since the first report, which may start above 0 after a resume."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start: tuple[float, int] | None = None
        self._unit = ""

    def left_s(self, done: int, total: int | None, unit: str) -> float | None:
        """None while it cannot be told."""
        if self._start is None or unit != self._unit or done < self._start[1]:
            self._start, self._unit = (self._now(), done), unit
        since_s, first = self._start
        if total is None or done <= first:
            return None
        return (self._now() - since_s) / (done - first) * max(total - done, 0)


class PlainReporter:
    """Lines for a file or a pipe; of the progress at most one in PLAIN_INTERVAL_S."""

    def __init__(self, write: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now = now
        self._stage = ""
        self._eta = EtaClock(now)
        self._next_s = 0.0

    def started(self, stage: str, at: int, of: int, *, resumed: bool) -> None:
        self._stage = stage
        self._eta = EtaClock(self._now)
        self._next_s = self._now() + PLAIN_INTERVAL_S
        self._write(f"[{at}/{of}] {stage}{' (goes on where it stopped)' if resumed else ''}")

    def progress(self, done: int, total: int | None, unit: str) -> None:
        left_s = self._eta.left_s(done, total, unit)
        if self._now() < self._next_s:
            return
        self._next_s = self._now() + PLAIN_INTERVAL_S
        count = f"{done}" if total is None else f"{done}/{total}"
        eta = "" if left_s is None else f", about {duration(left_s)} left"
        self._write(f"  {self._stage}: {count} {unit}{eta}")

    def note(self, line: str) -> None:
        self._write(line)

    def finished(self, stage: str, seconds: float, result: str) -> None:
        self._write(f"  {stage}: {result} ({duration(seconds)})")

    def close(self) -> None:
        return


class TerminalReporter:
    """A moving line with bar and time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = RichProgress(
            TextColumn("{task.fields[stage]}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False), TimeElapsedColumn(), TimeRemainingColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None

    def started(self, stage: str, at: int, of: int, *, resumed: bool) -> None:
        self._bar.start()
        self._task = self._bar.add_task("", total=None, stage=f"[{at}/{of}] {stage}".replace("[", r"\["), unit="")
        if resumed:
            self.note(f"{stage}: goes on where it stopped")

    def progress(self, done: int, total: int | None, unit: str) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, unit=unit)

    def note(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)

    def finished(self, stage: str, seconds: float, result: str) -> None:
        self._drop_task()
        self.note(f"{stage:14} {result} ({duration(seconds)})")

    def close(self) -> None:
        self._drop_task()
        self._bar.stop()

    def _drop_task(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def reporter(console: Console) -> Reporter:
    """The right one for where `console` writes."""
    if console.is_terminal:
        return TerminalReporter(console)
    return PlainReporter(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
