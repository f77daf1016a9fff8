"""Progress of the long steps: live lines on a terminal, plain lines now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

LOG_INTERVAL_S = 10.0
"""Without a terminal a step speaks this often at most, and when it starts and ends."""
MESSAGE_CHARS = 90


class Steps:
    """Named steps that may run side by side."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("[bold]{task.description}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[message]}", markup=False),
            console=console,
            transient=False,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started_s: dict[str, float] = {}
        self._shown_s: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, name: str, message: str) -> None:
        """Say what a step is doing; the first call starts it."""
        shown = " ".join(message.split())[:MESSAGE_CHARS]
        now = self._clock()
        if name not in self._started_s:
            self._started_s[name] = now
            self._tasks[name] = self._progress.add_task(name, total=1, message=shown)
        elif not self._console.is_terminal and now - self._shown_s[name] < LOG_INTERVAL_S:
            return
        self._shown_s[name] = now
        self._progress.update(self._tasks[name], message=shown)
        self._log(name, shown)

    def done(self, name: str, message: str) -> None:
        """End a step."""
        if name not in self._started_s:
            self.update(name, message)
        self._progress.update(self._tasks[name], completed=1, message=message)
        self._log(name, f"done: {message}")

    def counted(self, name: str, what: str) -> Callable[[int, int], None]:
        """A callback for a step that counts: told of how many of how many."""
        return lambda count, total: self.update(name, f"{count:,} of {total:,} {what}")

    def _log(self, name: str, message: str) -> None:
        if not self._console.is_terminal:
            elapsed_s = self._clock() - self._started_s[name]
            line = f"[{elapsed_s:5.1f} s] {name}: {message}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
