"""The summary: windows of counters that add up, and what is made of them."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from router.admin.history import COARSE_SAMPLES, FINE_SAMPLES, MetricHistory
from router.admin.summary import quantile, summary_of


class Stand:
    """Metrics, a clock, and their history."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.requests = Counter("router_requests", "-", ("route", "reason", "outcome"), registry=registry)
        self.cost = Counter("router_cost_usd", "-", ("route",), registry=registry)
        self.all_teacher = Counter("router_counterfactual_cost_usd", "-", registry=registry)
        self.moments = Counter(
            "router_quality_moments", "-", ("route", "delivered", "source", "moment"), registry=registry
        )
        self.alarm = Gauge("router_drift_alarm", "-", ("detector",), registry=registry)
        self.duration = Histogram(
            "router_request_duration_seconds", "-", ("route",), buckets=(0.1, 1.0, 10.0), registry=registry
        )
        self.unwatched = Counter("something_else", "-", registry=registry)
        self.now_s = 1_000.0
        self.history = MetricHistory(registry.collect, clock=lambda: self.now_s)

    def after(self, seconds: float) -> None:
        self.now_s += seconds
        self.history.take()

    def count(self, route: str, requests: int, *, usd: float = 0.0) -> None:
        self.requests.labels(route, "default", "ok").inc(requests)
        self.cost.labels(route).inc(usd)


def test_window_holds_what_was_counted_in_it() -> None:
    stand = Stand()
    stand.after(0)
    stand.count("student", 10, usd=1.0)
    stand.after(600)
    stand.count("teacher", 3, usd=2.0)
    stand.after(200)
    stand.count("teacher", 1)
    summary = summary_of(stand.history.window(200, steps=10))
    assert summary["requests"] == {"total": 4, "student": 0, "teacher": 4, "none": 0}
    assert summary["cost"]["answers_usd"] == 2.0
    assert (summary["start_s"], summary["end_s"]) == (1600, 1800)
    everything = summary_of(stand.history.window(None, steps=10))
    assert everything["requests"]["total"] == 14
    assert everything["start_s"] is None


def test_window_says_from_when_it_is_when_the_process_is_younger() -> None:
    stand = Stand()
    stand.count("student", 5)
    stand.after(0)
    stand.count("student", 2)
    stand.after(20)
    summary = summary_of(stand.history.window(3600, steps=10))
    assert summary["requests"]["student"] == 2
    assert summary["start_s"] == 1000


def test_steps_of_a_window_add_up_to_it() -> None:
    stand = Stand()
    stand.after(0)
    for number in range(100):
        stand.count("student", number)
        stand.after(15)
    window = stand.history.window(900, steps=12)
    summary = summary_of(window)
    assert 8 <= len(summary["series"]) <= 13
    assert sum(point["student"] for point in summary["series"]) == summary["requests"]["student"]


def test_memory_is_bounded_and_a_day_is_remembered() -> None:
    stand = Stand()
    stand.after(0)
    for _ in range(6000):
        stand.count("student", 1)
        stand.after(15)
    assert len(stand.history._remembered()) <= FINE_SAMPLES + COARSE_SAMPLES
    day = summary_of(stand.history.window(80_000, steps=10))
    assert day["requests"]["student"] == pytest.approx(80_000 / 15, abs=300 / 15)
    assert not any("something" in key.name for key in stand.history._keys)


def test_quality_has_value_interval_and_n() -> None:
    stand = Stand()
    for moment, value in {"n": 40, "w": 400, "w2": 4000, "ws": 320, "w2s": 3200, "w2s2": 3200}.items():
        stand.moments.labels("student", "yes", "shadow", moment).inc(value)
    (row,) = summary_of(stand.history.window(None, steps=1))["quality"]
    assert (row["route"], row["source"], row["score"]["value"], row["score"]["n"]) == ("student", "shadow", 0.8, 40)
    assert row["score"]["low"] < 0.8 < row["score"]["high"]


def test_share_has_an_interval_and_savings_are_against_the_teacher_alone() -> None:
    stand = Stand()
    stand.count("student", 80, usd=0.5)
    stand.count("teacher", 20, usd=1.5)
    stand.all_teacher.inc(10.0)
    summary = summary_of(stand.history.window(None, steps=1))
    share = summary["student_share"]
    assert (share["value"], share["n"]) == (0.8, 100)
    assert share["low"] < 0.8 < share["high"]
    assert summary["cost"]["saved_usd"] == 8.0


def test_gauges_are_as_they_are_now_with_those_that_are_0() -> None:
    stand = Stand()
    stand.alarm.labels("length").set(1)
    stand.alarm.labels("inputs").set(0)
    stand.after(0)
    stand.alarm.labels("length").set(0)
    assert summary_of(stand.history.window(60, steps=1))["now"]["drift_alarm"] == {"length": 0.0, "inputs": 0.0}


def test_quantile_is_prometheus_own() -> None:
    stand = Stand()
    for value in (0.05, 0.5, 0.5, 0.5, 5.0, 50.0):
        stand.duration.labels("student").observe(value)
    counted = stand.history.window(None, steps=1).counted
    name = "router_request_duration_seconds_bucket"
    assert quantile(counted, name, "student", 0.5) == pytest.approx(0.1 + 0.9 * (3 - 1) / 3)
    assert quantile(counted, name, "student", 0.99) == 10.0
    assert quantile(counted, name, "teacher", 0.5) is None
