"""One deadline a request. Every phase gets its own limit or what is left of the whole, whichever is less."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Monotonic seconds; asyncio's loops count in the same."""
TIMER_S = 0.005
"""An event loop's timers may come early by about as much: it reads the clock once a turn."""


class Deadline:
    """The moment at which a request must have been answered."""

    __slots__ = ("_clock", "at_s")

    def __init__(self, at_s: float, clock: Clock = time.monotonic) -> None:
        self.at_s = at_s
        self._clock = clock

    @classmethod
    def after(cls, timeout_s: float, clock: Clock = time.monotonic) -> Deadline:
        return cls(clock() + timeout_s, clock)

    def now_s(self) -> float:
        return self._clock()

    def left_s(self) -> float:
        """Never negative; too little to do anything in counts as nothing."""
        left_s = self.at_s - self._clock()
        return left_s if left_s > TIMER_S else 0.0

    def cut(self, limit_s: float) -> float:
        """A phase's limit, shortened to what is left."""
        return min(limit_s, self.left_s())

    def allows(self, wait_s: float) -> bool:
        """Whether something can still be done after waiting this long."""
        return wait_s < self.left_s()
