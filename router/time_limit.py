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
    """`with TimeLimit(limit_s):` cancels its task when the block takes longer, and raises TimeoutError at its end.

    Attributes:
        at_s: the end of the time, by the event loop's clock. To be set where the new end is later than the one before;
            else see `move_to`.
    """

    __slots__ = ("_cancelling", "_expired", "_loop", "_task", "_timer", "at_s")

    def __init__(self, limit_s: float) -> None:
        """
        Args:
            limit_s: from now on, not from the beginning of the block.
        """
        self._loop = asyncio.get_running_loop()
        self._expired = False
        self.at_s = self._loop.time() + limit_s

    def __enter__(self) -> Self:
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101 - only a task can be cancelled
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = self._loop.call_at(self.at_s, self._look)
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
