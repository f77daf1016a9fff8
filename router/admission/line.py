"""The queue in front of the gateway: bounded, fair over tenants, and closed to requests that would wait in vain.

Places are counted per process. Tenants that have requests waiting take turns, however many each has; when the queue is
full, a newcomer displaces the last one of the tenant that fills it. A tenant at its own limit (`step_back`) gets a turn
only when one of its requests has ended, here or, as far as one can know, on another replica.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from enum import Enum

RECHECK_S = 0.1
"""A tenant at its limit gets a turn after this: its requests may have ended on another replica."""
WEIGHT_OF_LATEST = 0.1
"""... request in the mean time for which a request holds its place."""


class Refusal(Enum):
    """Why somebody waits no longer. The values are labels of a metric."""

    QUEUE_FULL = "queue_full"
    TOO_LATE = "too_late"
    """The wait would be, or was, longer than the deadline or the queue allows."""


class NoPlace(Exception):
    """The request cannot be let in.

    Attributes:
        wait_s: after which trying again may help.
        at_tenant_limit: the tenant's own limit stood in the way, not the gateway's.
    """

    def __init__(self, reason: Refusal, wait_s: float, *, at_tenant_limit: bool) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.wait_s = wait_s
        self.at_tenant_limit = at_tenant_limit


class _Queue:
    """What waits of one tenant."""

    __slots__ = ("limit", "timer", "turns", "waiters")

    def __init__(self) -> None:
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.turns = math.inf
        """How many of them may be let in; finite for a tenant at its own limit."""
        self.limit: int | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def at_tenant_limit(self) -> bool:
        return self.limit is not None


class Line:
    """The places of one gateway process, and who waits for them."""

    def __init__(self, *, max_inflight: int, max_queued: int, max_wait_s: float) -> None:
        self.max_inflight = max_inflight
        self.inflight = 0
        self.waiting = 0
        self._max_queued = max_queued
        self._max_wait_s = max_wait_s
        self._queues: dict[str, _Queue] = {}
        """Of the tenants that have somebody waiting; the order is that of their turns."""
        self._held_s: dict[str, float] = {}
        """Mean time for which a tenant's requests hold their places; "" is everybody's."""

    @property
    def is_full(self) -> bool:
        """No newcomer can get in, unless one is displaced for it."""
        return self.inflight >= self.max_inflight and self.waiting >= self._max_queued

    def try_enter(self, tenant: str) -> bool:
        """Take a place if one is free and nobody of the tenant waits."""
        if self.inflight < self.max_inflight and (not self._queues or tenant not in self._queues):
            self.inflight += 1
            return True
        return False

    async def enter(self, tenant: str, *, deadline_s: float) -> None:
        """Take a place, perhaps after a wait.

        Args:
            deadline_s: when the request must have been answered, in the event loop's time.
        Raises:
            NoPlace.
        """
        if self.try_enter(tenant):
            return
        queue = self._queues.get(tenant) or _Queue()
        wait_s = self._expected_wait_s(tenant, queue)
        self._check_wait(wait_s, queue, deadline_s)
        if self.waiting >= self._max_queued and not self._displace(len(queue.waiters) + 1):
            raise NoPlace(Refusal.QUEUE_FULL, wait_s, at_tenant_limit=queue.at_tenant_limit)
        queue = self._queues.setdefault(tenant, queue)
        waiter = asyncio.get_running_loop().create_future()
        queue.waiters.append(waiter)
        self.waiting += 1
        await self._wait(tenant, queue, waiter, deadline_s)

    async def step_back(self, tenant: str, *, limit: int, deadline_s: float) -> None:
        """Give the place up because the tenant is at its own limit, and wait at the head of its queue for another.

        Raises: NoPlace: the place is given up all the same.
        """
        try:
            queue = self._queues.get(tenant) or _Queue()
            if not queue.at_tenant_limit:
                queue.limit, queue.turns = limit, 0
            wait_s = self._mean_held_s(tenant) / limit
            self._check_wait(wait_s, queue, deadline_s)
            if self.waiting >= self._max_queued:
                raise NoPlace(Refusal.QUEUE_FULL, wait_s, at_tenant_limit=True)
            self._queues[tenant] = queue
            waiter = asyncio.get_running_loop().create_future()
            queue.waiters.appendleft(waiter)
            self.waiting += 1
            if queue.timer is None:
                self._recheck_later(tenant, queue)
        finally:
            self.inflight -= 1
            self._let_in()
        await self._wait(tenant, queue, waiter, deadline_s)

    def leave(self, tenant: str, held_s: float | None = None) -> None:
        """Give a place back, and let in who is next.

        Args:
            held_s: for how long it was held; None for one that was not used.
        """
        self.inflight -= 1
        if held_s is not None:
            for name in (tenant, ""):
                mean_s = self._held_s.get(name, held_s)
                self._held_s[name] = mean_s + WEIGHT_OF_LATEST * (held_s - mean_s)
        self.give_turn(tenant)

    def give_turn(self, tenant: str) -> None:
        """The tenant is below its limit again: let one more of it in."""
        if not self._queues:
            return
        queue = self._queues.get(tenant)
        if queue is not None:
            queue.turns += 1
        self._let_in()

    def _let_in(self) -> None:
        """Hand out free places, one a tenant in turn."""
        while self.inflight < self.max_inflight:
            tenant = next((name for name, queue in self._queues.items() if queue.turns >= 1), None)
            if tenant is None:
                return
            queue = self._queues.pop(tenant)
            self._queues[tenant] = queue  # behind the others
            waiter = queue.waiters[0]
            self._remove(tenant, queue, waiter)
            if not waiter.done():  # one that gave up in this very moment
                queue.turns -= 1
                self.inflight += 1
                waiter.set_result(None)

    async def _wait(self, tenant: str, queue: _Queue, waiter: asyncio.Future[None], deadline_s: float) -> None:
        """Raises: NoPlace. Nothing but success leaves a trace."""
        until_s = min(asyncio.get_running_loop().time() + self._max_wait_s, self._latest_start_s(deadline_s))
        try:
            async with asyncio.timeout_at(until_s):
                await waiter
        except BaseException as exc:
            self._remove(tenant, queue, waiter)
            if not waiter.cancelled() and waiter.exception() is None:  # let in at the moment in which it gave up
                self.leave(tenant)
            if isinstance(exc, TimeoutError):
                wait_s = self._expected_wait_s(tenant, queue)
                raise NoPlace(Refusal.TOO_LATE, wait_s, at_tenant_limit=queue.at_tenant_limit) from None
            raise

    def _remove(self, tenant: str, queue: _Queue, waiter: asyncio.Future[None]) -> None:
        if waiter not in queue.waiters:
            return
        queue.waiters.remove(waiter)
        self.waiting -= 1
        if not queue.waiters:
            del self._queues[tenant]
            if queue.timer is not None:
                queue.timer.cancel()

    def _displace(self, newcomers_place: int) -> bool:
        """Make room in a full queue at the cost of the tenant that fills it, if that is another one."""
        if not self._queues:
            return False
        tenant = max(self._queues, key=lambda name: len(self._queues[name].waiters))
        queue = self._queues[tenant]
        if len(queue.waiters) <= newcomers_place:
            return False
        last = queue.waiters[-1]
        wait_s = self._expected_wait_s(tenant, queue)
        self._remove(tenant, queue, last)
        if not last.done():
            last.set_exception(NoPlace(Refusal.QUEUE_FULL, wait_s, at_tenant_limit=queue.at_tenant_limit))
        return True

    def _recheck_later(self, tenant: str, queue: _Queue) -> None:
        queue.timer = asyncio.get_running_loop().call_later(RECHECK_S, self._recheck, tenant, queue)

    def _recheck(self, tenant: str, queue: _Queue) -> None:
        self._recheck_later(tenant, queue)
        queue.turns = max(queue.turns, 1)
        self._let_in()  # cancels the timer with the last waiter

    def _check_wait(self, wait_s: float, queue: _Queue, deadline_s: float) -> None:
        left_s = self._latest_start_s(deadline_s) - asyncio.get_running_loop().time()
        if wait_s > min(self._max_wait_s, left_s):
            raise NoPlace(Refusal.TOO_LATE, wait_s, at_tenant_limit=queue.at_tenant_limit)

    def _latest_start_s(self, deadline_s: float) -> float:
        """Who starts later is not answered in time."""
        return deadline_s - self._mean_held_s("")

    def _mean_held_s(self, tenant: str) -> float:
        return self._held_s.get(tenant, self._held_s.get("", 0.0))

    def _expected_wait_s(self, tenant: str, queue: _Queue) -> float:
        """Of one more request of the tenant: while a place is held once, as many become free as there are."""
        place = len(queue.waiters) + 1
        wait_s = place * self._mean_held_s(tenant) / queue.limit if queue.limit is not None else 0.0
        if self.inflight >= self.max_inflight:
            before = sum(min(len(it.waiters), place) for it in self._queues.values() if it.turns >= 1)
            wait_s = max(wait_s, (before + 1) * self._mean_held_s("") / self.max_inflight)
        return wait_s
