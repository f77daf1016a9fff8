"""Drift detection in gateways: several processes, one state; and what survives what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policies.quality.drift import Sizes
from policies.record import Grade, Usage
from router.config.drift import DriftConfig
from router.errors import StateUnavailable
from router.metrics import Metrics
from router.quality.drift import MAX_SAMPLES, REFERENCE_FILE, SAMPLES_PER_S, DriftWatch
from router.state.memory import MemoryStore
from tests.traffic_records import decision, shadow

CONFIG = DriftConfig(reference_requests=400, window_requests=400, window_labels=200, reference_s=0.0)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


class World:
    """Replicas that share a store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.store = MemoryStore(max_value_bytes=2**24, clock=self.clock)
        self.student = "s-1"
        self.number = 0

    def replica(self, name: str = "a", config: DriftConfig = CONFIG) -> DriftWatch:
        return DriftWatch(
            config, store=self.store, metrics=Metrics(), folder=self.folder / name,
            student=lambda: self.student, clock=self.clock,
        )  # fmt: skip

    async def serve(self, watches: list[DriftWatch], n: int, **fields: Any) -> None:
        """`n` requests in turns, with a round of counting after each 100."""
        for count in range(1, n + 1):
            self.number += 1
            tokens = 30 + self.number % 40
            values = {
                "route": "student",
                "student": self.student,
                "usage": Usage(prompt_tokens=5, completion_tokens=tokens),
            }
            watches[count % len(watches)].observe(decision(self.number, **(values | fields)))
            if count % 100 == 0:
                for watch in watches:
                    await watch.once()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def alarms(watch: DriftWatch) -> list[str]:
    return list(watch.as_json()["alarms"])


def gauge(watch: DriftWatch, name: str, **labels: str) -> float | None:
    return watch._metrics.registry.get_sample_value(name, labels)


async def test_replicas_share_one_reference_and_one_window(world: World) -> None:
    replicas = [world.replica("a"), world.replica("b")]
    await world.serve(replicas, 900)
    assert replicas[1].monitor.reference.n == 400
    assert (replicas[1].monitor.looks, replicas[1].monitor.window.n) == (5, 400)
    await world.serve(replicas, 500, usage=Usage(prompt_tokens=5, completion_tokens=900))
    for replica in replicas:
        await replica.once()
        assert alarms(replica) == ["length"]
        assert gauge(replica, "router_drift_alarm", detector="length") == 1
        assert gauge(replica, "router_drift_alarm", detector="format") == 0
        assert (gauge(replica, "router_drift_score", detector="length") or 0) > 1


async def test_alarm_is_logged_when_it_begins_and_when_it_ends(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    replica = world.replica()
    await world.serve([replica], 800)
    await world.serve([replica], 400, finish_reason="length")
    await world.serve([replica], 300, finish_reason="length")
    assert not [m for m in caplog.messages if "format" in m]  # the reference knows no finish reasons
    await world.serve([replica], 400, completion="")
    assert len([m for m in caplog.messages if "drift: format (empty) of student traffic: changed by" in m]) == 1
    await world.serve([replica], 900)
    assert "drift: the alarm of format has ended" in caplog.messages


async def test_promotion_starts_a_new_reference_and_a_rollback_finds_the_old_one(world: World) -> None:
    replica = world.replica()
    await world.serve([replica], 500)
    assert replica.monitor.fixed_s is not None
    world.student = "s-2"
    await world.serve([replica], 100, student="s-2")
    assert (replica.monitor.student, replica.monitor.fixed_s) == ("s-2", None)
    world.student = "s-1"
    await world.serve([replica], 100)
    assert replica.monitor.student == "s-1"
    assert replica.monitor.reference.n == 400


async def test_replica_that_still_serves_the_former_student_does_not_turn_the_clock_back(world: World) -> None:
    old, new = world.replica("a"), world.replica("b")
    old._student = lambda: "s-1"
    await world.serve([old, new], 200)
    world.student = "s-2"
    await new.once()
    await world.serve([old], 100, student="s-1")
    assert new.monitor.student == "s-2"
    await new.once()
    assert new.monitor.student == "s-2"
    assert new.monitor.reference.n == 0


async def test_reference_outlives_a_restart_and_a_lost_store(world: World) -> None:
    await world.serve([world.replica()], 500)
    assert (world.folder / "a" / REFERENCE_FILE).is_file()
    world.store = MemoryStore(max_value_bytes=2**24, clock=world.clock)
    again = world.replica()
    await world.serve([again], 100)
    assert again.monitor.reference.n == 400
    assert again.monitor.fixed_s is not None


async def test_damaged_reference_is_not_used(world: World, caplog: pytest.LogCaptureFixture) -> None:
    path = world.folder / "a" / REFERENCE_FILE
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 1}')
    replica = world.replica()
    await world.serve([replica], 100)
    assert replica.monitor.fixed_s is None
    assert "drift: the reference is not used" in caplog.text


async def test_new_reference_is_collected_on_request(world: World) -> None:
    replica = world.replica()
    await world.serve([replica], 500)
    replica.request_restart()
    await world.serve([replica], 100)
    assert replica.monitor.fixed_s is None
    assert replica.monitor.reference.n == 100


class BreakingStore(MemoryStore):
    """Goes away, before a round of counting or in the middle of it."""

    breaks_at_put = False

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        if self.breaks_at_put:
            raise StateUnavailable("gone")
        await super().put(key, value, ttl_s=ttl_s)


async def test_counts_wait_when_the_store_is_away(world: World) -> None:
    store = world.store = BreakingStore(max_value_bytes=2**24, clock=world.clock)
    replica = world.replica()
    await world.serve([replica], 100)
    store.failure = "the connection is closed"
    await world.serve([replica], 100)
    store.failure, store.breaks_at_put = None, True
    await world.serve([replica], 100)
    store.breaks_at_put = False
    await world.serve([replica], 100)
    assert replica.monitor.reference.n == 400
    assert gauge(replica, "router_state_errors_total", feature="drift") == 2


async def test_calibration_is_judged_by_graded_answers_of_the_serving_student(world: World) -> None:
    replica = world.replica()
    for n in range(400):
        grade = Grade(grader="exact", student=float(n % 2), teacher=1.0)
        replica.observe_shadow(shadow(n, student="s-1", predicted=0.1, grades=(grade,)))
        replica.observe_shadow(shadow(n, student="other", predicted=0.1, grades=(grade,)))
        replica.observe_shadow(shadow(n, student="s-1", grades=(grade,)))
    await replica.once()
    figures = replica.as_json()
    assert figures["calibration"]["labels"] == 400
    assert figures["calibration"]["observed_wrong"] == 0.5
    assert alarms(replica) == ["calibration"]
    assert gauge(replica, "router_calibration_error") == pytest.approx(0.4)


async def test_sample_of_a_busy_gateway_is_bounded_and_uniform(world: World) -> None:
    replica = world.replica(config=CONFIG.model_copy(update={"interval_s": 10.0}))
    for n in range(2000):
        replica.observe(decision(n, route="student", student="s-1"))
    created = sorted(sample.created_s for sample in replica._samples)
    assert len(created) == 10 * SAMPLES_PER_S < MAX_SAMPLES
    middle = created[len(created) // 2] - decision(0).created_s
    assert 700 < middle < 1300
    assert Sizes().window_requests == DriftConfig().window_requests
