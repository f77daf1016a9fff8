"""Who is asked after whom: replicas, retries, fall backs, and where it ends."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from policies.base import RouteDecision
from router.config import ResilienceConfig
from router.errors import BackendError, BackendRefused, BackendTimeout, BackendUnreachable, Cause
from router.metrics import Metrics
from router.resilience.attempts import Attempt, Attempts
from router.resilience.deadline import Deadline
from router.resilience.pool import Pool
from router.resilience.routes import Routes
from router.routing import FORCED_POLICY
from tests.router.resilience.fakes import FakeClock, Request, engine, pool

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


async def test_only_the_student_is_asked_when_it_answers() -> None:
    world = World()
    attempts = world.attempts(STUDENT)
    attempt = await attempts.next()
    assert attempt is not None
    assert (attempt.backend.route, attempt.degraded, attempt.reason, attempt.cause) == ("student", None, None, None)
    assert world.student.replicas[0].inflight == 1
    attempt.done()
    attempt.done()
    assert world.student.replicas[0].inflight == 0


async def test_teacher_answers_at_once_when_the_only_student_fails() -> None:
    world = World()
    attempts = world.attempts(STUDENT)
    assert await world.asked(attempts, failure(), None) == ["student", "teacher"]
    assert world.slept == []
    assert world.count("router_fallbacks_total", cause="server_error") == 1
    assert world.count("router_retries_total", cause="server_error") == 0


async def test_answer_says_why_another_model_gave_it() -> None:
    world = World()
    attempts = world.attempts(TEACHER)
    first = await attempts.next()
    assert first is not None
    first.done(failure("timeout"))
    second = await attempts.next(failure("timeout"))
    assert second is not None
    assert (second.backend.name, second.degraded, second.reason) == ("teacher-2", None, "fallback_timeout")
    second.done(failure("unauthorized"))
    third = await attempts.next(failure("unauthorized"))
    assert third is not None
    assert (third.backend.name, third.degraded) == ("student", "teacher_unavailable")
    assert (third.reason, third.cause) == ("fallback_unauthorized", "unauthorized")


async def test_other_replicas_are_asked_before_the_teacher() -> None:
    world = World("a", "b", "c")
    attempts = world.attempts(STUDENT)
    names = await world.asked(attempts, failure("disconnected"))
    assert set(names[:3]) == {"a", "b", "c"}
    assert names[3:] == ["teacher", "teacher-2"]
    assert world.count("router_retries_total", cause="disconnected") == 2
    assert world.count("router_fallbacks_total", cause="disconnected") == 2


async def test_reason_stays_the_policys_when_another_replica_answers() -> None:
    world = World("a", "b")
    attempts = world.attempts(STUDENT)
    first = await attempts.next()
    assert first is not None
    first.done(failure())
    second = await attempts.next(failure())
    assert second is not None
    assert (second.backend.route, second.reason, second.cause) == ("student", None, None)
    assert second.backend is not first.backend


@pytest.mark.parametrize("cause", ["context_overflow", "payment_required", "refused"])
async def test_no_other_replica_is_asked_when_all_would_say_the_same(cause: Cause) -> None:
    world = World("a", "b")
    names = await world.asked(world.attempts(STUDENT), failure(cause), None)
    assert names[1:] == ["teacher"]


async def test_last_teacher_is_asked_again_after_random_waits_before_quality_is_lowered() -> None:
    world = World()
    world.teachers = [world.teacher]
    names = await world.asked(world.attempts(TEACHER), failure())
    assert names == ["teacher", "teacher", "teacher", "student"]
    assert len(world.slept) == 2
    assert 0 <= world.slept[0] <= 0.05
    assert 0 <= world.slept[1] <= 0.1
    assert world.count("router_retries_total", cause="server_error") == 2


async def test_same_replica_is_not_asked_again_when_it_was_too_slow() -> None:
    world = World()
    world.teachers = [world.teacher]
    attempts = world.attempts(FORCED_TEACHER)
    assert await world.asked(attempts, BackendTimeout("late", cause="timeout")) == ["teacher"]
    assert attempts.failure is not None
    assert attempts.failure.cause == "timeout"


async def test_retry_after_is_waited_for_when_it_is_short() -> None:
    world = World()
    attempts = world.attempts(STUDENT)
    assert await world.asked(attempts, failure("rate_limited", 1), None) == ["student", "student"]
    assert len(world.slept) == 1
    assert 1.0 <= world.slept[0] <= 1.1


async def test_next_model_answers_when_retry_after_is_long() -> None:
    world = World()
    assert await world.asked(world.attempts(STUDENT), failure("rate_limited", 7), None) == ["student", "teacher"]
    assert world.slept == []


async def test_retry_after_is_not_waited_for_when_the_deadline_is_nearer() -> None:
    world = World()
    attempts = world.attempts(STUDENT, timeout_s=0.5)
    assert await world.asked(attempts, failure("rate_limited", 1), None) == ["student", "teacher"]


async def test_soonest_retry_after_is_told_when_everybody_is_rate_limited() -> None:
    world = World()
    attempts = world.attempts(FORCED_TEACHER)
    assert await world.asked(attempts, failure("rate_limited", 20), failure("rate_limited", 30)) == [
        "teacher",
        "teacher-2",
    ]
    assert (attempts.only_rate_limited, attempts.retry_after_s) == (True, 20)
    mixed = world.attempts(FORCED_TEACHER)
    await world.asked(mixed, failure("rate_limited", 20), failure("server_error"))
    assert not mixed.only_rate_limited


async def test_nobody_is_asked_any_more_when_the_deadline_has_passed() -> None:
    world = World("a", "b")
    attempts = world.attempts(STUDENT, timeout_s=5.0)
    attempt = await attempts.next()
    assert attempt is not None
    world.clock.pass_(5.0)
    late = BackendTimeout("late", cause="timeout")
    attempt.done(late)
    assert await attempts.next(late) is None
    assert attempts.failure is late
    assert all(replica.breaker.state == "closed" for replica in world.student.replicas)


async def test_attempt_that_was_cut_off_by_the_deadline_says_nothing_about_its_replica() -> None:
    world = World(resilience={"breaker": {"consecutive_failures": 1}})
    attempt = await world.attempts(STUDENT, timeout_s=1.0).next()
    assert attempt is not None
    world.clock.pass_(1.0)
    attempt.done(BackendTimeout("late", cause="timeout"))
    assert world.student.replicas[0].breaker.state == "closed"


async def test_retries_stay_within_the_budget_when_everything_fails() -> None:
    world = World(resilience={"retries": {"budget_ratio": 0.2, "budget_burst": 10}, "breaker": NEVER_OPENS})
    world.teachers = [world.teacher]
    calls = 0
    for _ in range(500):
        calls += len(await world.asked(world.attempts(FORCED_TEACHER), failure()))
    retries = world.count("router_retries_total", cause="server_error")
    assert calls == 500 + retries
    assert 100 <= retries <= 10 + 0.2 * 500


NEVER_OPENS = {"consecutive_failures": 10_000, "min_requests": 10_000}


async def test_dead_replica_gets_no_requests_until_it_is_tried_again() -> None:
    world = World("a", "b", resilience={"retries": {"budget_burst": 100}})
    dead = world.student.replicas[0]

    async def serve(*, a_is_dead: bool) -> int:
        """How many of 40 requests reach the replica a; all of them must be answered by a replica."""
        reached = 0
        for _ in range(40):
            attempts = world.attempts(STUDENT)
            attempt = await attempts.next()
            while attempt is not None:
                error = None
                if attempt.backend is dead.backend:
                    reached += 1
                    error = BackendUnreachable("reset", cause="disconnected") if a_is_dead else None
                attempt.done(error)
                if error is None:
                    assert attempt.backend.route == "student"
                    break
                attempt = await attempts.next(error)
            assert attempt is not None
        return reached

    assert await serve(a_is_dead=True) == 3
    assert await serve(a_is_dead=True) == 0
    world.clock.pass_(5.0)
    assert await serve(a_is_dead=True) == 1  # one probe
    world.clock.pass_(10.0)
    assert await serve(a_is_dead=False) > 5


async def test_teacher_answers_without_asking_when_the_student_is_ejected() -> None:
    world = World()
    world.break_(world.student)
    attempt = await world.attempts(STUDENT).next()
    assert attempt is not None
    assert (attempt.backend.name, attempt.reason) == ("teacher", "fallback_breaker_open")
    assert world.count("router_fallbacks_total", cause="breaker_open") == 1


async def test_student_answers_degraded_without_asking_when_all_teachers_are_ejected() -> None:
    world = World()
    world.break_(world.teacher)
    world.break_(world.second_teacher)
    attempt = await world.attempts(TEACHER).next()
    assert attempt is not None
    assert (attempt.backend.name, attempt.degraded) == ("student", "teacher_unavailable")


async def test_request_gives_up_with_a_time_when_everybody_is_ejected() -> None:
    world = World()
    world.break_(world.teacher)
    world.clock.pass_(1.5)
    world.break_(world.second_teacher)
    attempts = world.attempts(TOO_LONG)
    assert await attempts.next() is None
    assert attempts.failure is not None
    assert attempts.failure.cause == "breaker_open"
    assert attempts.retry_after_s == 4  # 3.5 s, in whole seconds
    assert not attempts.only_rate_limited


@pytest.mark.parametrize(
    ("decision", "names"),
    [
        (STUDENT, ["student", "teacher", "teacher-2"]),
        (TEACHER, ["teacher", "teacher-2", "student"]),
        (TOO_LONG, ["teacher", "teacher-2"]),
        (FORCED_TEACHER, ["teacher", "teacher-2"]),
        (FORCED_STUDENT, ["student", "teacher", "teacher-2"]),
    ],
)
async def test_models_are_asked_in_the_order_of_the_decision(decision: RouteDecision, names: list[str]) -> None:
    world = World(resilience={"retries": {"max_per_request": 0}})
    assert await world.asked(world.attempts(decision), failure()) == names


async def test_forced_student_stays_alone_when_fall_back_is_turned_off() -> None:
    world = World()
    attempts = world.attempts(FORCED_STUDENT, teacher_may_stand_in=False)
    assert set(await world.asked(attempts, failure())) == {"student"}


async def test_student_answers_degraded_when_the_tenant_cannot_pay_the_teacher() -> None:
    world = World()
    attempt = await world.attempts(TEACHER, without_teacher="budget_spent").next()
    assert attempt is not None
    assert (attempt.backend.name, attempt.degraded, attempt.reason) == ("student", "budget_spent", None)
    assert await world.attempts(FORCED_TEACHER, without_teacher="budget_spent").next() is None
    failing = world.attempts(STUDENT, without_teacher="budget_spent")
    assert set(await world.asked(failing, failure())) == {"student"}


# Spill by load

LIMITS = {"max_waiting_requests": 4, "max_kv_usage": 0.9, "max_ttft_s": 2.0, "max_inflight_requests": 100}


async def test_teacher_answers_while_the_students_queue_is_full_and_the_student_again_when_it_has_drained() -> None:
    world = World(resilience={"spill": LIMITS})
    replica = world.student.replicas[0]
    answered = []
    for waiting in (3, 4, 9, 4, 3, 4):
        replica.observe(engine(running=8, waiting=waiting))
        attempt = await world.attempts(STUDENT).next()
        assert attempt is not None
        attempt.done()
        answered.append((attempt.backend.name, attempt.reason))
    spilled = ("teacher", "overflow_queue")
    own = ("student", None)
    assert answered == [own, spilled, spilled, spilled, own, spilled]  # 4 is the limit, below 3.2 it returns
    assert world.count("router_spills_total", reason="overflow_queue") == 4
    assert world.count("router_fallbacks_total", cause="server_error") == 0


async def test_full_kv_cache_spills_and_stale_numbers_do_not() -> None:
    world = World(resilience={"spill": LIMITS})
    world.student.replicas[0].observe(engine(kv_usage=0.95))
    attempt = await world.attempts(STUDENT).next()
    assert attempt is not None
    assert attempt.reason == "overflow_kv"
    world.clock.pass_(3.5)
    attempt = await world.attempts(STUDENT).next()
    assert attempt is not None
    assert attempt.backend.route == "student"


async def test_slow_first_tokens_spill_until_the_average_has_fallen() -> None:
    world = World(resilience={"spill": LIMITS})
    ttft = world.student.replicas[0].ttft
    assert ttft is not None
    ttft.begin("stream")
    world.clock.pass_(3.0)
    ttft.end("stream", answered=True)
    routes = []
    for _ in range(4):
        attempt = await world.attempts(STUDENT).next()
        assert attempt is not None
        routes.append(attempt.reason)
        world.clock.pass_(2.0)
    assert routes == ["overflow_ttft", "overflow_ttft", "overflow_ttft", None]


async def test_own_requests_spill_when_the_student_has_no_metrics() -> None:
    world = World(resilience={"spill": {"max_inflight_requests": 2}})
    running = [await world.attempts(STUDENT).next() for _ in range(3)]
    assert [a.backend.name for a in running if a is not None] == ["student", "student", "teacher"]


async def test_replica_with_room_answers_when_others_are_full() -> None:
    world = World("a", "b", "c", resilience={"spill": LIMITS})
    a, b, c = world.student.replicas
    for replica, waiting in ((a, 9), (b, 0), (c, 9)):
        replica.observe(engine(running=8, waiting=waiting))
    for _ in range(10):
        attempt = await world.attempts(STUDENT).next()
        assert attempt is not None
        assert attempt.backend.name == "b"
    b.observe(engine(running=8, waiting=9))
    attempt = await world.attempts(STUDENT).next()
    assert attempt is not None
    assert attempt.reason == "overflow_queue"


async def test_full_student_answers_when_no_teacher_can() -> None:
    world = World(resilience={"spill": LIMITS})
    world.student.replicas[0].observe(engine(waiting=50))
    world.break_(world.teacher)
    world.break_(world.second_teacher)
    attempt = await world.attempts(STUDENT).next()
    assert attempt is not None
    assert (attempt.backend.name, attempt.degraded, attempt.reason) == ("student", None, None)
    broke = await world.attempts(STUDENT, without_teacher="budget_spent").next()
    assert broke is not None
    assert broke.backend.name == "student"


async def test_full_student_is_the_last_resort_when_the_teachers_fail() -> None:
    world = World(resilience={"spill": LIMITS})
    world.student.replicas[0].observe(engine(waiting=50))
    attempts = world.attempts(STUDENT)
    assert await world.asked(attempts, failure(), failure(), None) == ["teacher", "teacher-2", "student"]


async def test_client_that_insists_on_the_student_gets_it_however_full_it_is() -> None:
    world = World(resilience={"spill": LIMITS})
    world.student.replicas[0].observe(engine(waiting=50))
    attempt = await world.attempts(FORCED_STUDENT).next()
    assert attempt is not None
    assert attempt.backend.name == "student"


async def test_cancelled_attempt_gives_its_place_back_and_counts_for_nothing() -> None:
    world = World(resilience={"breaker": {"consecutive_failures": 1}})
    attempt = await world.attempts(STUDENT).next()
    assert isinstance(attempt, Attempt)
    with pytest.raises(KeyboardInterrupt), attempt:
        raise KeyboardInterrupt
    replica = world.student.replicas[0]
    assert (replica.inflight, replica.breaker.state) == (0, "closed")
    attempt = await world.attempts(STUDENT).next()
    assert attempt is not None
    with pytest.raises(BackendError), attempt:
        raise failure()
    assert (replica.inflight, replica.breaker.state) == (0, "open")


async def test_second_attempt_beside_the_first_takes_another_replica_and_costs_a_retry() -> None:
    world = World("a", "b", resilience={"retries": {"budget_burst": 1, "budget_ratio": 0.0}})
    attempts = world.attempts(STUDENT)
    first = await attempts.next()
    second = attempts.beside()
    assert first is not None
    assert second is not None
    assert first.backend is not second.backend
    assert attempts.beside() is None  # the budget is spent
