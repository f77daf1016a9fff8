"""A student with some replicas, two teachers, and the attempts at requests to them; time stands still."""

from __future__ import annotations

from random import Random
from typing import Any

from policies.base import RouteDecision
from router.config import ResilienceConfig
from router.errors import BackendError, BackendRefused, Cause
from router.metrics import Metrics
from router.resilience.attempts import Attempts
from router.resilience.deadline import Deadline
from router.resilience.pool import Pool
from router.resilience.routes import Routes
from router.routing import FORCED_POLICY
from tests.router.resilience.fakes import FakeClock, Request, pool

STUDENT = RouteDecision(route="student", reason="default", policy="default")
TEACHER = RouteDecision(route="teacher", reason="low_confidence", policy="retrieval_confidence")
TOO_LONG = RouteDecision(route="teacher", reason="too_long", policy="long_context", student_capable=False)
FORCED_STUDENT = RouteDecision(route="student", reason="forced", policy=FORCED_POLICY)
FORCED_TEACHER = RouteDecision(route="teacher", reason="forced", policy=FORCED_POLICY)
RESILIENCE: dict[str, Any] = {"breaker": {"consecutive_failures": 3}}


def failure(cause: Cause = "server_error", retry_after_s: int | None = None) -> BackendError:
    return BackendRefused("failed", cause=cause, retry_after_s=retry_after_s)


class World:
    """A student with some replicas, two teachers, and the attempts at requests to them."""

    def __init__(self, *replicas: str, resilience: dict[str, Any] | None = None) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics()
        settings = {**RESILIENCE, **(resilience or {})}
        self.student = pool(self.clock, *(replicas or ("student",)), resilience=settings)
        self.teacher = pool(self.clock, "teacher", route="teacher", resilience=settings)
        self.second_teacher = pool(self.clock, "teacher-2", route="teacher", resilience=settings)
        self.slept: list[float] = []
        self._retries = ResilienceConfig.model_validate(settings).retries
        self.teachers = [self.teacher, self.second_teacher]

    def attempts(self, decision: RouteDecision, *, timeout_s: float = 60.0, **options: Any) -> Attempts:
        routes = Routes(self.teachers, self._retries, self.metrics, random=Random(5), sleep=self._sleep)
        deadline = Deadline.after(timeout_s, self.clock)
        return routes.attempts(decision, self.student, Request(), deadline, **options)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.pass_(seconds)

    async def asked(self, attempts: Attempts, *failures: BackendError | None) -> list[str]:
        """The names of the replicas that are asked while they fail like this; the last failure goes on."""
        names: list[str] = []
        attempt = await attempts.next()
        while attempt is not None and len(names) < 20:
            names.append(attempt.backend.name)
            error = failures[min(len(names), len(failures)) - 1]
            attempt.done(error)
            if error is None:
                break
            attempt = await attempts.next(error)
        return names

    def break_(self, broken: Pool) -> None:
        for replica in broken.replicas:
            while replica.breaker.state != "open":
                replica.breaker.leave(replica.breaker.enter(), ok=False)

    def count(self, metric: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0
