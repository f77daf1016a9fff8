"""A circuit breaker: a replica that keeps failing is left alone, then tried with few requests until it works again.

closed ──(failures in a row, or their share)──▶ open ──(time)──▶ half-open ──(probes succeed)──▶ closed
                                                  ▲                  │
                                                  └──(a probe fails)─┘  the time doubles
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from router.config.resilience import BreakerConfig
from router.errors import Cause
from router.resilience.deadline import Clock

State = Literal["closed", "half_open", "open"]

FAILURES: frozenset[Cause] = frozenset(
    {"connect_error", "disconnected", "timeout", "server_error", "invalid_response", "stream_error"}
)
"""What says that a replica is broken. A 4xx is about the request, a 429 about load."""

SPENT = -1
"""A ticket that says nothing any more."""
BUCKETS = 10
"""Of the error rate's window."""


class Breaker:
    """State of one replica. Whoever calls the replica takes a ticket with `enter` and gives it back with `leave`."""

    __slots__ = ("_clock", "_config", "_epoch", "_in_row", "_on_change", "_probes", "_rounds", "_successes", "_until_s",
                 "_window", "state")  # fmt: skip

    def __init__(
        self,
        config: BreakerConfig,
        clock: Clock = time.monotonic,
        on_change: Callable[[State], None] = lambda state: None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._on_change = on_change
        self._window = ErrorWindow(config.window_s, clock)
        self.state: State = "closed"
        self._epoch = 0
        self._in_row = 0
        self._rounds = 0
        """How often it has opened since it was closed last."""
        self._until_s = 0.0
        self._probes = 0
        self._successes = 0

    def allows(self) -> bool:
        """Whether a request may go to the replica now."""
        if self.state == "closed":
            return True
        if self.state == "open":
            return self._clock() >= self._until_s
        return self._probes < self._config.half_open_probes

    def reopens_in_s(self) -> float:
        """Time until it lets a request through again; 0 unless it is open."""
        return max(0.0, self._until_s - self._clock()) if self.state == "open" else 0.0

    def enter(self) -> int:
        """Count a request in, only while `allows`. Returns its ticket."""
        if self.state != "closed":
            if self.state == "open":
                self._probes = self._successes = 0
                self._become("half_open")
            self._probes += 1
        return self._epoch

    def answered(self, ticket: int) -> int:
        """A stream has begun. A probe has passed with that, long before its end. Returns the ticket for the end."""
        if ticket != self._epoch or self.state == "closed":
            return ticket
        self.leave(ticket, ok=True)
        return SPENT if ticket == self._epoch else self._epoch

    def leave(self, ticket: int, ok: bool | None) -> None:
        """The request of this ticket has ended.

        Args:
            ok: None when it says nothing about the replica: the client left, or another attempt won.
        """
        if ticket != self._epoch:  # it began before the state changed
            return
        if self.state == "closed":
            self._count(ok)
            return
        self._probes -= 1
        if ok is False:
            self._open()
        elif ok:
            self._successes += 1
            if self._successes >= self._config.half_open_probes:
                self._close()

    def _count(self, ok: bool | None) -> None:
        if ok is None:
            return
        self._window.add(ok)
        if ok:
            self._in_row = 0
            return
        self._in_row += 1
        requests, failures = self._window.counts()
        too_many = requests >= self._config.min_requests and failures >= self._config.error_rate * requests
        if too_many or self._in_row >= self._config.consecutive_failures:
            self._open()

    def _open(self) -> None:
        wait_s = min(self._config.open_s * 2.0 ** min(self._rounds, 32), self._config.max_open_s)
        self._rounds += 1
        self._until_s = self._clock() + wait_s
        self._become("open")

    def _close(self) -> None:
        self._rounds = self._in_row = 0
        self._window.clear()
        self._become("closed")

    def _become(self, state: State) -> None:
        self.state = state
        self._epoch += 1
        self._on_change(state)


class ErrorWindow:
    """Requests and failures of the last `window_s`, to a tenth of it."""

    __slots__ = ("_bucket", "_bucket_s", "_clock", "_failures", "_requests")

    def __init__(self, window_s: float, clock: Clock) -> None:
        self._bucket_s = window_s / BUCKETS
        self._clock = clock
        self.clear()

    def clear(self) -> None:
        self._requests = [0] * BUCKETS
        self._failures = [0] * BUCKETS
        self._bucket = int(self._clock() / self._bucket_s)

    def add(self, ok: bool) -> None:
        self._advance()
        index = self._bucket % BUCKETS
        self._requests[index] += 1
        if not ok:
            self._failures[index] += 1

    def counts(self) -> tuple[int, int]:
        """(requests, failures)"""
        self._advance()
        return sum(self._requests), sum(self._failures)

    def _advance(self) -> None:
        bucket = int(self._clock() / self._bucket_s)
        if bucket <= self._bucket:
            return
        for passed in range(max(self._bucket + 1, bucket - BUCKETS + 1), bucket + 1):
            self._requests[passed % BUCKETS] = self._failures[passed % BUCKETS] = 0
        self._bucket = bucket
