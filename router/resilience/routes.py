"""Which models may answer a request, in order: the policy's choice, the load, and what the tenant can pay."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from random import Random

from policies.base import Route, RouteDecision
from policies.record import Usage
from router.config.resilience import RetryConfig
from router.metrics import Metrics
from router.resilience.attempts import Attempts, Sleep, Step, Tools
from router.resilience.deadline import Deadline
from router.resilience.pool import Pool
from router.resilience.spill import SpillReason
from router.resilience.spread import Affine
from router.resilience.watcher import Watcher
from router.routing import FORCED_POLICY

UNAVAILABLE, OVERLOAD = "teacher_unavailable", "overload"
"""Why the student's answer stands where a teacher's was wanted: the teachers failed, or only had no room."""


class Routes:
    """Knows the teachers; a request brings the student of its generation."""

    def __init__(
        self,
        teachers: Sequence[Pool],
        retries: RetryConfig,
        metrics: Metrics,
        *,
        random: Random | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """
        Args:
            teachers: in order, at least one.
            random: for waits.
        """
        self._teachers = tuple(Step(pool) for pool in teachers)
        self._tools = Tools(retries, metrics, random or Random(), sleep)  # noqa: S311 - waits
        self._metrics = metrics

    def price_usd(self, usage: Usage, student: Pool, route: Route) -> float | None:
        """What the model that was chosen would charge; None: its price is unknown."""
        price = (student if route == "student" else self._teachers[0].pool).price
        return price.cost_usd(usage) if price is not None else None

    def attempts(
        self,
        decision: RouteDecision,
        student: Pool,
        request: Affine,
        deadline: Deadline,
        *,
        teacher_may_stand_in: bool = True,
        without_teacher: str | None = None,
        watchers: Sequence[Watcher] = (),
    ) -> Attempts:
        """The attempts at a request.

        The student stands in for the teacher only where that lowers declared quality: not when it cannot serve the
        request, and not when the client insists on the teacher.

        Args:
            teacher_may_stand_in: for a student that the client insists on.
            without_teacher: why the tenant cannot have the teacher; None: it can.
        """
        of = partial(self._of, request=request, deadline=deadline, watchers=watchers)
        forced = decision.policy == FORCED_POLICY
        teachers = self._teachers if without_teacher is None else ()
        if decision.route == "teacher":
            if forced or not decision.student_capable:
                return of(teachers)
            stand_in = Step(student, without_teacher) if without_teacher else Step(student, UNAVAILABLE, OVERLOAD)
            return of((*teachers, stand_in))
        own = Step(student)
        if forced and not teacher_may_stand_in:
            return of((own,))
        overflow = self.overflow(decision, student) if teachers else None
        if overflow is None:
            return of((own, *teachers))
        self._metrics.spills.labels(overflow).inc()
        last_resort = (own,) if student.exists else ()
        return of((*teachers, *last_resort), reason=overflow)

    def overflow(self, decision: RouteDecision, student: Pool) -> SpillReason | None:
        """Why a teacher would answer a request that is the student's, now; None: the student would."""
        if decision.route == "teacher" or (decision.policy == FORCED_POLICY and student.exists):
            return None
        reason = student.overflow()
        return reason if reason is not None and any(step.pool.usable for step in self._teachers) else None

    def escalation(self, request: Affine, deadline: Deadline, *, watchers: Sequence[Watcher] = ()) -> Attempts:
        """The teachers alone, for a draft of the student that is not good enough."""
        return self._of(self._teachers, request, deadline, watchers)

    def student_alone(
        self, student: Pool, request: Affine, deadline: Deadline, *, watchers: Sequence[Watcher] = ()
    ) -> Attempts:
        """The student, asked once more: to compare its answers, or for one that no teacher would give."""
        return self._of((Step(student),), request, deadline, watchers)

    def _of(
        self,
        steps: Sequence[Step],
        request: Affine,
        deadline: Deadline,
        watchers: Sequence[Watcher],
        *,
        reason: str | None = None,
    ) -> Attempts:
        return Attempts(steps, request, deadline, tools=self._tools, reason=reason, watchers=watchers)
