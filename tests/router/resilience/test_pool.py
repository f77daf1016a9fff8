"""Several replicas seen as one model."""

from __future__ import annotations

from typing import Any

import pytest

from router.backends import AbsentStudent, Backend
from router.config import ResilienceConfig
from router.config.backends import StudentConfig
from router.resilience.breaker import State
from router.resilience.pool import Pool
from tests.router.resilience.fakes import FakeClock, Request, pool

SUPERVISED = StudentConfig.model_validate({"vllm": {"model": "/models/student"}})


@pytest.mark.parametrize(
    ("seen", "expected"),
    [((None, None), None), ((False, None), None), ((False, False), False), ((None, True), True), ((False, True), True)],
)
def test_pool_is_reachable_when_one_replica_is(seen: tuple[Any, Any], expected: bool | None) -> None:
    several = pool(FakeClock(), "a", "b")
    for replica, reachable in zip(several.replicas, seen, strict=True):
        replica.backend.reachable = reachable
    assert several.reachable is expected


def test_window_is_the_smallest_that_is_known() -> None:
    several = pool(FakeClock(), "a", "b", "c")
    assert several.window_tokens is None
    several.replicas[1].backend.window_tokens = 8192
    several.replicas[2].backend.window_tokens = 4096
    assert several.window_tokens == 4096


def test_breaker_changes_are_told_with_the_replicas_name() -> None:
    told: list[tuple[str, State]] = []
    several = pool(FakeClock(), "a", "b", on_breaker=lambda name, state: told.append((name, state)))
    breaker = several.replicas[1].breaker
    while breaker.state == "closed":
        breaker.leave(breaker.enter(), ok=False)
    assert told == [("b", "open")]
    assert {replica.name for _ in range(9) if (replica := several.choose(Request()))} == {"a"}


def test_supervised_student_is_loading_until_it_answers_for_the_first_time() -> None:
    backend = Backend("student", SUPERVISED, {})
    loading = Pool([backend], ResilienceConfig())
    assert loading.overflow() is None  # not probed yet: let a request find out
    backend.reachable = False
    assert loading.overflow() == "student_loading"
    backend.reachable = backend.was_reachable = True
    assert loading.overflow() is None
    backend.reachable = False  # busy or crashed: that is its breaker's business
    assert loading.overflow() is None


def test_remote_student_is_asked_whatever_a_probe_saw() -> None:
    remote = pool(FakeClock(), "student")
    remote.replicas[0].backend.reachable = False
    assert remote.overflow() is None


def test_student_that_is_still_to_be_promoted_is_loading() -> None:
    assert Pool([AbsentStudent(SUPERVISED)], ResilienceConfig()).overflow() == "student_loading"


def test_engines_are_asked_only_where_something_depends_on_it() -> None:
    clock = FakeClock()
    assert not pool(clock, "a").needs_engine_load
    assert not pool(clock, "a", resilience={"spill": {"max_ttft_s": 1.0}}).needs_engine_load
    assert pool(clock, "a", resilience={"spill": {"max_kv_usage": 0.9}}).needs_engine_load
    assert pool(clock, "a", "b").needs_engine_load
    assert not pool(clock, "a", route="teacher", resilience={"spill": {"max_kv_usage": 0.9}}).needs_engine_load
