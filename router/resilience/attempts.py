"""The calls of backends that one request may need, one after the other, until one of them answers.

A failed attempt is followed, always before the first byte and within the request's deadline, by the first of these
that is possible:

1. another replica of the same model, at once;
2. the same replica after its Retry-After, if that is short;
3. the same replica after a random wait, if nobody else could give an answer as good;
4. the next model: teachers in their order, the student where it may stand in.

1 to 3 are retries: they are limited per request and spend the model's retry budget. 4 is a fall back.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from router.backends import Backend
from router.config.resilience import RetryConfig
from router.errors import BackendError, BackendUnreachable, Cause
from router.metrics import Metrics
from router.resilience.breaker import FAILURES
from router.resilience.deadline import Deadline
from router.resilience.hedge import race
from router.resilience.pool import Pool
from router.resilience.replica import Replica
from router.resilience.retry import backoff_s, polite_wait_s
from router.resilience.spread import Affine
from router.resilience.watcher import Watcher

REPEATABLE: frozenset[Cause] = frozenset(
    {"connect_error", "disconnected", "server_error", "stream_error", "rate_limited"}
)
"""What may go well a moment later at the same replica. Not a timeout: it still works on the first call."""
FAILOVER: frozenset[Cause] = REPEATABLE | {"timeout", "invalid_response", "model_not_found", "unauthorized"}
"""What may go well at another replica of the same model."""

Sleep = Callable[[float], Awaitable[None]]
T = TypeVar("T")


class Tools(NamedTuple):
    """What the attempts of all requests share."""

    config: RetryConfig
    metrics: Metrics
    random: Random
    sleep: Sleep = asyncio.sleep


class Step(NamedTuple):
    """A model that may answer, and what the answer then says."""

    pool: Pool
    degraded: str | None = None
    overloaded: str | None = None
    """Instead of `degraded`, where all models before it were rate limited: they are there, but have no room."""


class Attempt:
    """One call of one replica. `with attempt:` around the call tells its replica how it ended."""

    __slots__ = ("_deadline", "_open", "_replica", "_slower", "_started_s", "_ticket", "_watchers", "backend", "cause",
                 "degraded", "reason")  # fmt: skip

    def __init__(
        self,
        step: Step,
        replica: Replica,
        request: Affine,
        deadline: Deadline,
        reason: str | None,
        cause: str | None,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.backend = replica.backend
        self.degraded = step.degraded
        """What the answer then says of its quality; None: nothing."""
        self.reason = reason
        """What the answer's reason is; None: the policy's."""
        self.cause = cause
        """Why the model that should have answered did not."""
        self._replica = replica
        self._deadline = deadline
        self._open = True
        self._ticket = replica.breaker.enter()
        replica.inflight += 1
        if replica.ttft is not None and request.stream:
            replica.ttft.begin(self)
        self._slower = step.pool.slower[request.stream] if step.pool.slower else None
        self._started_s = deadline.now_s() if self._slower is not None else 0.0
        self._watchers = watchers
        for watcher in watchers:
            watcher.began(self)

    @property
    def hedge_after_s(self) -> float | None:
        """When a second attempt may begin beside this one; None: never."""
        return None if self._slower is None else self._slower.delay_s()

    def answered(self) -> None:
        """The first event, or the whole of a plain answer, has come."""
        replica = self._replica
        if self._slower is not None:
            self._slower.add(self._deadline.now_s() - self._started_s)
        self._ticket = replica.breaker.answered(self._ticket)
        if replica.ttft is not None:
            replica.ttft.end(self, answered=True)
        for watcher in self._watchers:
            watcher.answered(self)

    def done(self, error: BackendError | None = None) -> None:
        """The call has ended, with this error or well. Later calls of this and of `abandon` have no effect."""
        if error is None:
            self._end(ok=True)
        elif error.cause == "timeout" and not self._deadline.left_s():
            self._end(ok=None, cause=error.cause)  # it was not given the time that it may take
        else:
            self._end(ok=error.cause not in FAILURES, cause=error.cause)

    def abandon(self) -> None:
        """The call was given up for a reason that is not the replica's."""
        self._end(ok=None, cause="abandoned")

    def _end(self, ok: bool | None, cause: str | None = None) -> None:
        if not self._open:
            return
        self._open = False
        replica = self._replica
        replica.inflight -= 1
        if replica.ttft is not None:
            replica.ttft.end(self, answered=False)
        replica.breaker.leave(self._ticket, ok)
        for watcher in self._watchers:
            watcher.ended(self, cause)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, BackendError):
            self.done(error)
        else:
            self.abandon()


class Attempts:
    """Who answers one request. `next` gives one attempt after the other; the caller ends each of them."""

    __slots__ = ("_at", "_cause", "_config", "_deadline", "_metrics", "_random", "_reason", "_request",
                 "_retries", "_sleep", "_steps", "_tried", "_watchers", "failure", "only_rate_limited",
                 "retry_after_s")  # fmt: skip

    def __init__(
        self,
        steps: Sequence[Step],
        request: Affine,
        deadline: Deadline,
        *,
        tools: Tools,
        reason: str | None = None,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        """
        Args:
            steps: in order; one that is not degraded never follows one that is.
            reason: of an answer of the first step, when it is not the policy's.
        """
        self._watchers = watchers
        self._steps = steps
        self._at = 0
        self._request = request
        self._deadline = deadline
        self._config, self._metrics, self._random, self._sleep = tools
        self._reason = reason
        self._cause: Cause | None = None
        self._tried: list[Replica] = []
        self._retries = 0
        self.failure: BackendError | None = None
        """The last one, once `next` has given up."""
        self.only_rate_limited = True
        """Whether all that failed did so because of a rate limit."""
        self.retry_after_s: int | None = None
        """The soonest moment that a backend named."""

    async def next(self, failure: BackendError | None = None) -> Attempt | None:
        """The next call to make; None: nobody else may answer, `failure` says why.

        Args:
            failure: of the attempt before this one, which must have ended.
        """
        if failure is not None:
            self._note(failure)
            again = await self._again(failure)
            if again is not None:
                return again
            self._fall_back(failure.cause)
            if not self._deadline.left_s():
                return None
        while self._at < len(self._steps):
            pool = self._steps[self._at].pool
            replica = pool.choose(self._request)
            if replica is not None:
                pool.budget.deposit()
                return self._attempt(replica)
            wait_s = math.ceil(pool.reopens_in_s())
            self._note(
                BackendUnreachable(
                    f"every replica of the {pool.route} has failed lately and is left alone for now",
                    cause="breaker_open",
                    retry_after_s=max(wait_s, 1),
                )
            )
            self._fall_back("breaker_open")
        return None

    def first_answer(
        self, attempt: Attempt, ask: Callable[[Backend], Awaitable[T]], discard: Callable[[T], None]
    ) -> Awaitable[tuple[Attempt, T]]:
        """What `ask` gives for this attempt, or with hedging for a second one beside it, and which of them it was.

        Every other attempt has ended; this one is the caller's to end.

        Raises:
            BackendError: all of them have ended.
        """
        delay_s = attempt.hedge_after_s
        if delay_s is None:
            return _answer_of(attempt, ask)

        def beside() -> Awaitable[tuple[Attempt, T]] | None:
            other = self.beside()
            return None if other is None else _answer_of(other, ask)

        def drop(answer: tuple[Attempt, T]) -> None:
            answer[0].abandon()
            discard(answer[1])

        count = self._metrics.hedges.labels
        return race(
            _answer_of(attempt, ask), beside, delay_s=delay_s, discard=drop, count=lambda outcome: count(outcome).inc()
        )

    def beside(self) -> Attempt | None:
        """A second attempt to run beside the present one, at the cost of a retry; at another replica if there is one.

        None: no replica, or no budget.
        """
        pool = self._steps[self._at].pool
        replica = pool.choose(self._request, self._tried)
        if replica is None:
            replica = next((r for r in reversed(self._tried) if r.breaker.allows()), None)
        if replica is None or not pool.budget.withdraw():
            return None
        return self._attempt(replica)

    async def _again(self, failure: BackendError) -> Attempt | None:
        """A retry of the same model, after its wait."""
        pool = self._steps[self._at].pool
        if failure.cause not in FAILOVER or self._retries >= self._config.max_per_request:
            return None
        replica, wait_s = pool.choose(self._request, self._tried), 0.0
        if replica is None:
            wait = self._wait_s(failure)
            if wait is None:
                return None
            replica, wait_s = self._tried[-1], wait
        if not self._deadline.allows(wait_s) or not replica.breaker.allows() or not pool.budget.withdraw():
            return None
        self._retries += 1
        self._metrics.retries.labels(failure.cause).inc()
        if wait_s:
            await self._sleep(wait_s)
            if not replica.breaker.allows():  # others have found out meanwhile
                return None
        return self._attempt(replica)

    def _wait_s(self, failure: BackendError) -> float | None:
        """Before the same replica is asked again; None: somebody else shall answer, or nobody."""
        if failure.cause not in REPEATABLE:
            return None
        if failure.retry_after_s is not None:
            if failure.retry_after_s > self._config.max_retry_after_s:
                return None
            return polite_wait_s(failure.retry_after_s, self._random)
        following = self._steps[self._at + 1 : self._at + 2]
        if following and following[0].degraded is None:
            return None
        return backoff_s(self._config, self._retries + 1, self._random)

    def _attempt(self, replica: Replica) -> Attempt:
        if replica not in self._tried:
            self._tried.append(replica)
        step = self._steps[self._at]
        if step.overloaded is not None and self.failure is not None and self.only_rate_limited:
            step = step._replace(degraded=step.overloaded)
        return Attempt(step, replica, self._request, self._deadline, self._reason, self._cause, self._watchers)

    def _note(self, failure: BackendError) -> None:
        self.failure = failure
        self.only_rate_limited = self.only_rate_limited and failure.cause == "rate_limited"
        if failure.retry_after_s is not None:
            self.retry_after_s = min(failure.retry_after_s, self.retry_after_s or failure.retry_after_s)

    def _fall_back(self, cause: Cause) -> None:
        self._at += 1
        self._tried.clear()
        self._cause, self._reason = cause, f"fallback_{cause}"
        if self._at < len(self._steps):
            self._metrics.fallbacks.labels(cause).inc()


async def _answer_of(attempt: Attempt, ask: Callable[[Backend], Awaitable[T]]) -> tuple[Attempt, T]:
    """Raises: BackendError: the attempt has ended."""
    try:
        answer = await ask(attempt.backend)
    except BackendError as error:
        attempt.done(error)
        raise
    except BaseException:
        attempt.abandon()
        raise
    attempt.answered()
    return attempt, answer
