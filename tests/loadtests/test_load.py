"""The load generator against the fake backend: what it counts, how it is bounded, whom it refuses."""

from __future__ import annotations

import asyncio
import json
import math

import pytest
from click.testing import CliRunner

from loadtests.client import Connection, Target, TargetError
from loadtests.commands import loadtest
from loadtests.fake_backend import BackendThread, FakeBackend
from loadtests.load import Limits, LoadResult, closed_loop, open_loop, percentiles
from loadtests.scenarios import LONG_PROMPT_BYTES, PROMPT_BYTES, SCENARIOS, STREAM_CHUNKS, Call, calls


def call(model: str, *, stream: bool = False) -> Call:
    messages = [{"role": "user", "content": "hi"}]
    return Call("/chat/completions", json.dumps({"model": model, "messages": messages, "stream": stream}).encode())


def closed(model: str, *, requests: int, connections: int = 1, stream: bool = False) -> LoadResult:
    async def load() -> LoadResult:
        async with FakeBackend() as backend:
            limits = Limits(duration_s=30, max_requests=requests)
            target = Target.parse(backend.base_url)
            return await closed_loop(target, [call(model, stream=stream)], connections=connections, limits=limits)

    return asyncio.run(load())


def test_closed_loop_sends_exactly_the_bound_when_it_is_reached_first() -> None:
    result = closed("fake", requests=57, connections=8)
    assert (result.requests, result.failed) == (57, 0)
    assert result.requests_per_s > 0
    assert result.latency.p50_s <= result.latency.p99_s <= result.latency.max_s


def test_closed_loop_ends_when_its_time_is_over() -> None:
    async def load() -> LoadResult:
        async with FakeBackend() as backend:
            limits = Limits(duration_s=0.1, max_requests=10_000)
            return await closed_loop(
                Target.parse(backend.base_url), [call("fake-delay-0.06")], connections=1, limits=limits
            )

    assert asyncio.run(load()).requests < 10


def test_stream_events_are_counted_when_pieces_are_odd() -> None:
    result = closed("fake-tokens-50-split-crlf", requests=2, stream=True)
    assert (result.failed, result.events) == (0, 2 * (50 + 3))


@pytest.mark.parametrize(
    ("model", "stream", "failure"),
    [
        ("fault-500", False, "http_500"),
        ("fault-429", True, "http_429"),
        ("fault-reset", False, "closed"),
        ("fault-reset-mid-3", True, "closed"),
        ("fault-truncate-3", True, "closed"),
        ("fault-cut-3", True, "unfinished"),
        ("fault-no-done", True, "unfinished"),
        ("fault-empty-stream", True, "unfinished"),
    ],
)
def test_failure_is_named_when_an_answer_is_not_whole(model: str, stream: bool, failure: str) -> None:
    result = closed(model, requests=3, stream=stream)
    assert (result.requests, result.failed, result.failures) == (3, 3, {failure: 3})
    assert result.requests_per_s == 0
    assert math.isnan(result.latency.p50_s)


def test_exchange_times_out_when_the_backend_hangs() -> None:
    async def ask() -> tuple[str | None, int]:
        async with FakeBackend() as backend:
            connection = Connection(Target.parse(backend.base_url), timeout_s=0.05)
            failure = (await connection.exchange(call("fault-hang"))).failure
            healthy = await connection.exchange(call("fake"))  # a new connection
            connection.close()
            return failure, healthy.status

    assert asyncio.run(ask()) == ("timeout", 200)


def test_failure_is_connect_when_nobody_listens() -> None:
    async def load() -> LoadResult:
        async with FakeBackend() as backend:
            target = Target.parse(backend.base_url)
        return await closed_loop(target, [call("fake")], connections=1, limits=Limits(duration_s=5, max_requests=2))

    assert asyncio.run(load()).failures == {"connect": 2}


def test_open_loop_charges_a_stall_to_the_requests_that_were_due_when_the_server_is_slow() -> None:
    async def load() -> tuple[LoadResult, int]:
        async with FakeBackend() as backend:
            limits = Limits(duration_s=30, max_requests=40)
            target = Target.parse(backend.base_url)
            result = await open_loop(target, [call("fake-delay-0.2")], rate_per_s=400, limits=limits)
            return result, backend.state.connections_total

    result, connections = asyncio.run(load())
    assert (result.requests, result.failed) == (40, 0)
    assert result.latency.p50_s >= 0.2
    assert connections > 10  # 0.2 s at 400/s: they did not wait for each other


def test_open_loop_keeps_its_schedule_when_the_server_is_quick() -> None:
    async def load() -> LoadResult:
        async with FakeBackend() as backend:
            limits = Limits(duration_s=0.5, max_requests=1_000)
            return await open_loop(Target.parse(backend.base_url), [call("fake")], rate_per_s=100, limits=limits)

    result = asyncio.run(load())
    assert result.requests == 50
    assert result.duration_s >= 0.49


def test_percentiles_are_nearest_rank_when_given_a_hundred_values() -> None:
    found = percentiles([value / 100 for value in range(100, 0, -1)])
    assert (found.p50_s, found.p90_s, found.p99_s, found.max_s) == (0.5, 0.9, 0.99, 1.0)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1:8080/v1",
        "http://example.com/v1",
        "http://127.0.0.1.example.com/v1",
        "http://0.0.0.0:8080/v1",
        "https://127.0.0.1:8080/v1",
        "127.0.0.1:8080",
        "http://127.0.0.1:notaport/v1",
    ],
)
def test_target_is_refused_when_it_is_not_plain_http_on_loopback(url: str) -> None:
    with pytest.raises(TargetError):
        Target.parse(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://localhost/v1/", "http://[::1]:80/v1"])
def test_target_is_taken_when_it_is_loopback(url: str) -> None:
    assert Target.parse(url).path == "/v1"


def test_scenarios_have_unique_prompts_of_their_size_when_made() -> None:
    made = calls("plain", "auto", count=50)
    contents = [json.loads(entry.body)["messages"][0]["content"] for entry in made]
    assert len(set(contents)) == 50
    assert all(PROMPT_BYTES <= len(content) < PROMPT_BYTES + 10 for content in contents)
    assert made == calls("plain", "auto", count=50)


def test_mixed_scenario_asks_for_every_policy_when_made() -> None:
    by_kind = {entry.kind: json.loads(entry.body) for entry in calls("mixed", "auto", count=40)}
    assert set(by_kind) == {"plain", "long_context", "retrieval_confidence", "long_reasoning"}
    assert len(by_kind["long_context"]["messages"][0]["content"]) >= LONG_PROMPT_BYTES
    assert by_kind["long_reasoning"]["reasoning_effort"] == "high"
    assert all(chunk["score"] < 0.55 for chunk in by_kind["retrieval_confidence"]["router"]["retrieved_chunks"])


@pytest.fixture
def gateway_like() -> BackendThread:
    return BackendThread(models=("auto",))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_command_reports_json_when_asked(gateway_like: BackendThread, scenario: str) -> None:
    with gateway_like as backend:
        options = ["--url", backend.base_url, "--scenario", scenario, "--requests", "20", "--json"]
        done = CliRunner().invoke(loadtest, options)
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert (report["requests"], report["failed"]) == (20, 0)
    assert report["events"] == (20 * (STREAM_CHUNKS + 3) if scenario == "stream" else 0)


def test_command_exits_with_1_when_requests_fail(gateway_like: BackendThread) -> None:
    with gateway_like as backend:
        done = CliRunner().invoke(loadtest, ["--url", backend.base_url, "--model", "unserved", "--requests", "3"])
    assert done.exit_code == 1
    assert "3 x http_404" in done.output


def test_command_sends_the_key_when_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOAD_KEY", "k")
    with BackendThread(models=("auto",), api_key="k") as backend:
        options = ["--url", backend.base_url, "--requests", "3"]
        assert CliRunner().invoke(loadtest, options).exit_code == 1
        assert CliRunner().invoke(loadtest, [*options, "--api-key-env", "LOAD_KEY"]).exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--url", "http://192.168.1.1/v1"], "'192.168.1.1' is refused"),
        (["--seconds", "100000"], "--seconds"),
        (["--requests", "0"], "--requests"),
        (["--rate", "10", "--connections", "2"], "exclude each other"),
        (["--api-key-env", "SURELY_NOT_SET"], "SURELY_NOT_SET is not set"),
    ],
)
def test_command_exits_with_2_when_an_option_is_wrong(options: list[str], message: str) -> None:
    done = CliRunner().invoke(loadtest, options)
    assert done.exit_code == 2
    assert message in done.output


def test_command_help_has_an_example_when_asked() -> None:
    assert "Example: locum loadtest" in CliRunner().invoke(loadtest, ["--help"]).output
