"""What the budget controller is compared with, on the same requests with the same budget."""

from __future__ import annotations

import numpy as np

from policies.forecast import WINDOW_S
from policies.lengths import TYPICAL_TOKENS
from trainer.budget.traffic import DAY_S, Flags, Requests

CLOSED = 1e9


class _Counting:
    """Knows what was spent today."""

    name = ""

    def __init__(self, requests: Requests, limit: float) -> None:
        self._requests, self._limit = requests, limit
        self._cost = requests.cost
        self._day, self._spent = 0, 0.0

    def passes(self, row: int, now_s: float) -> bool:
        raise NotImplementedError

    def spent(self, row: int, now_s: float, *, asked: bool) -> None:
        if int(self._requests.created_s[row] // DAY_S) == self._day:
            self._spent += float(self._cost[row])

    def tick(self, now_s: float) -> None:
        if int(now_s // DAY_S) != self._day:
            self._day, self._spent = int(now_s // DAY_S), 0.0

    def price(self) -> float:
        return 0.0


class CutOff(_Counting):
    """Whatever the policies want, until the budget is spent, then nothing."""

    name = "cut-off"

    def passes(self, row: int, now_s: float) -> bool:
        return bool(self._requests.incapable[row]) or self._spent < self._limit

    def price(self) -> float:
        return 0.0 if self._spent < self._limit else CLOSED


class Pid(_Counting):
    """A PID on the price, every five minutes: spend shall be at the share of the day that is over."""

    name = "PID"
    gains = (8.0, 4.0, 2.0)
    """Of the error (a share of the budget), of its integral over days, of its rate in budgets a day; tuned on a usual
    day. In score per thousand tokens."""

    def __init__(self, requests: Requests, limit: float) -> None:
        super().__init__(requests, limit)
        self._price, self._integral, self._error, self._moved_s = 0.0, 0.0, 0.0, 0.0
        self._expected = (requests.prompt_tokens + TYPICAL_TOKENS) / 1_000

    def passes(self, row: int, now_s: float) -> bool:
        requests = self._requests
        gain = requests.score[row] - requests.threshold
        return bool(requests.incapable[row]) or bool(gain > self._price * self._expected[row])

    def tick(self, now_s: float) -> None:
        super().tick(now_s)
        if now_s - self._moved_s < WINDOW_S:
            return
        elapsed = min(1.0, (now_s - self._moved_s) / DAY_S)
        self._moved_s = now_s
        error = self._spent / self._limit - now_s % DAY_S / DAY_S
        rate = (error - self._error) / elapsed if abs(error - self._error) < 0.5 else 0.0
        self._integral = max(0.0, self._integral + error * elapsed)
        self._error = error
        proportional, integral, derivative = self.gains
        wanted = proportional * error + integral * self._integral + derivative * rate / 100
        self._price = max(0.0, wanted)

    def price(self) -> float:
        return self._price


class Oracle(_Counting):
    """Knows the day before it begins: the best requests by their real length, until the budget is spent exactly."""

    name = "oracle"

    def __init__(self, requests: Requests, limit: float) -> None:
        super().__init__(requests, limit)
        self._chosen: Flags = np.zeros(len(requests), np.bool_)
        self._price = 0.0
        start_s = requests.created_s[-1] // DAY_S * DAY_S
        free = requests.incapable | requests.forced
        rows = np.flatnonzero((requests.created_s >= start_s) & requests.wanted & ~free)
        left = limit - float(self._cost[free & (requests.created_s >= start_s)].sum())
        ratio = (requests.score[rows] - requests.threshold) / self._cost[rows]
        order = np.argsort(-ratio)
        inside = np.cumsum(self._cost[rows][order]) <= left
        self._chosen[rows[order[inside]]] = True
        self._price = float(ratio[order[inside]].min()) if inside.any() and not inside.all() else 0.0

    def passes(self, row: int, now_s: float) -> bool:
        return bool(self._requests.incapable[row]) or bool(self._chosen[row])

    def price(self) -> float:
        return self._price
