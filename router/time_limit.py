"""A bound on the time of a block, as `asyncio.timeout` has it, for the hot path: no coroutine, and one timer at most.

A limit that is moved to a later time costs nothing: its timer looks again when it fires.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

LONG_S = 3600.0
"""No timer is set for longer: a loop's clock need not take inf."""


class TimeLimit:
    """`with TimeLimit(at_s):` raises TimeoutError at its end when the block took longer; the task is cancelled for it.

    Args:
        at_s: in the event loop's time.
    """

    __slots__ = ("_cancelling", "_expired", "_loop", "_task", "_timer", "at_s")

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s
        """To be set where the new end is later than the one before; else see `move_to`."""
        self._expired = False

    @classmethod
    def of(cls, limit_s: float) -> TimeLimit:
        """From now on."""
        return cls(asyncio.get_running_loop().time() + limit_s)

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - only a task can be cancelled
        self._task = task
        self._cancelling = task.cancelling()
        self._loop = asyncio.get_running_loop()
        self._set_timer()
        return self

    def move_to(self, at_s: float) -> None:
        """Another end of the time; inf for none."""
        earlier, self.at_s = at_s < self.at_s, at_s
        if earlier:
            self._timer.cancel()
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer = self._loop.call_at(min(self.at_s, self._loop.time() + LONG_S), self._look)

    def _look(self) -> None:
        if self._loop.time() < self.at_s:
            self._set_timer()
        else:
            self._expired = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
