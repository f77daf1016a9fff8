"""Who is asked after whom: replicas, retries, fall backs, and where it ends."""

from __future__ import annotations

import pytest

from policies.base import RouteDecision
from router.errors import BackendError, BackendTimeout, BackendUnreachable, Cause
from router.resilience.attempts import Attempt
from tests.router.resilience.world import FORCED_STUDENT, FORCED_TEACHER, STUDENT, TEACHER, TOO_LONG, World, failure


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


@pytest.mark.parametrize(
    ("causes", "degraded"),
    [(["rate_limited", "rate_limited"], "overload"), (["rate_limited", "timeout"], "teacher_unavailable")],
)
async def test_student_that_stands_in_says_whether_the_teachers_are_overloaded_or_gone(
    causes: list[Cause], degraded: str
) -> None:
    attempts = World().attempts(TEACHER)
    attempt = await attempts.next()
    for cause in causes:
        assert attempt is not None
        problem = BackendUnreachable("failed", cause=cause, retry_after_s=60)
        attempt.done(problem)
        attempt = await attempts.next(problem)
    assert attempt is not None
    assert (attempt.backend.name, attempt.degraded) == ("student", degraded)


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
