"""What engines say of their load is read under every name, and believed only while it is fresh."""

from __future__ import annotations

import pytest

from router.resilience.load import EngineLoad, TtftAverage, engine_load
from router.resilience.spread import loads
from tests.router.resilience.fakes import FakeClock, engine, pool

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a } b"} 3.0
vllm:num_requests_running{engine="1",model_name="a } b"} 4.0
vllm:num_requests_waiting{engine="0",model_name="a } b"} 2.0
vllm:num_requests_waiting{engine="1",model_name="a } b"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 50.0
vllm:kv_cache_usage_perc{engine="0",model_name="a } b"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="a } b"} 0.75
vllm:request_success_total{engine="0",finished_reason="stop"} 9.0
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VLLM, EngineLoad(7.0, 2.0, 0.75)),
        (VLLM.replace("kv_cache", "gpu_cache"), EngineLoad(7.0, 2.0, 0.75)),
        ("sglang:num_running_reqs{x=\"1\"} 5\nsglang:num_queue_reqs 1\nsglang:token_usage 0.5\n", EngineLoad(5, 1, 0.5)),
        ("llamacpp:requests_processing 2\nllamacpp:requests_deferred 3\n", EngineLoad(2, 3, None)),
        ("vllm:num_requests_running NaN\n", None),
        ("vllm:num_requests_running x\n", None),
        ("process_cpu_seconds_total 3\n", None),
        ("", None),
    ],
)  # fmt: skip
def test_load_is_read_from_the_metrics_of_every_known_engine(text: str, expected: EngineLoad | None) -> None:
    assert engine_load(text) == expected


def test_load_counts_what_was_sent_since_the_engine_was_asked() -> None:
    replica = pool(FakeClock(), "a").replicas[0]
    replica.inflight = 3
    replica.observe(engine(running=10, waiting=2))
    assert replica.requests(engine(10, 2)) == 12
    replica.inflight = 5
    assert (replica.requests(engine(10, 2)), replica.waiting(engine(10, 2))) == (14, 4)
    replica.inflight = 0
    assert (replica.requests(engine(10, 2)), replica.waiting(engine(10, 2))) == (9, 0)


def test_own_requests_count_when_the_engine_of_one_replica_has_been_silent_for_too_long() -> None:
    clock = FakeClock()
    first, second = pool(clock, "a", "b").replicas
    first.inflight = 1
    first.observe(engine(running=50))
    second.observe(engine(running=5))
    assert loads([first, second]) == [50.0, 5.0]
    clock.pass_(2.0)
    second.observe(None)  # could not be asked
    clock.pass_(1.5)
    assert (first.engine, second.engine) == (None, None)
    assert loads([first, second]) == [1.0, 0.0]
    first.observe(engine(running=50))
    assert loads([first, second]) == [1.0, 0.0]  # never the one kind against the other


def test_ttft_follows_the_latest_streams() -> None:
    clock = FakeClock()
    ttft = TtftAverage(5.0, clock)
    assert ttft.estimate_s() == 0.0
    for seconds in (0.2, 0.2, 3.0, 3.0):
        ttft.begin(seconds)
        clock.pass_(seconds)
        ttft.end(seconds, answered=True)
    assert 1.6 < ttft.estimate_s() < 3.0
    ttft.end("unknown", answered=True)


def test_ttft_sees_streams_that_still_wait() -> None:
    clock = FakeClock()
    ttft = TtftAverage(5.0, clock)
    ttft.begin("hangs")
    clock.pass_(1.0)
    ttft.begin("later")
    clock.pass_(6.0)
    assert ttft.estimate_s() == 7.0
    ttft.end("hangs", answered=False)
    assert ttft.estimate_s() == 6.0
    ttft.end("later", answered=False)
    assert ttft.estimate_s() == 0.0


def test_ttft_falls_when_no_stream_comes_any_more() -> None:
    clock = FakeClock()
    ttft = TtftAverage(5.0, clock)
    ttft.begin("slow")
    clock.pass_(8.0)
    ttft.end("slow", answered=True)
    assert ttft.estimate_s() == pytest.approx(8.0)
    clock.pass_(10.0)
    assert ttft.estimate_s() == pytest.approx(2.0)
