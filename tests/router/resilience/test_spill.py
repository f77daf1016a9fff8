"""A student that has too much to do lets the teacher answer."""

from __future__ import annotations

from tests.router.resilience.fakes import engine
from tests.router.resilience.world import FORCED_STUDENT, STUDENT, World, failure

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
