"""The demo's client against a real `locum serve` between two fake backends."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from rich.console import Console

from loadtests.fake_backend import FakeBackend
from serving.demo.progress import Steps
from serving.demo.questions import ALIAS, Question
from serving.demo.requests import DemoRequest
from serving.demo.results import Prices, Result
from serving.demo.runner import run_requests
from serving.demo.session import gateway_counts
from serving.demo.settings import Endpoint, GatewaySetup, free_port
from serving.demo.stack import running_gateway
from serving.demo.summary import summarize

pytestmark = pytest.mark.system

FAKE_WINDOW_TOKENS = 2048


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a gateway that is started and stopped as by the demo."""
    async with (
        FakeBackend(models=("student",), window_tokens=FAKE_WINDOW_TOKENS) as student,
        FakeBackend(models=("teacher",), window_tokens=8 * FAKE_WINDOW_TOKENS) as teacher,
    ):
        setup = GatewaySetup(
            port=free_port(),
            student=Endpoint(student.base_url, "student"),
            teacher=Endpoint(teacher.base_url, "teacher"),
            prices=Prices(),
            compute_similarities=False,
        )
        with Steps(Console(file=(tmp_path / "console").open("w"))) as steps:
            async with running_gateway(setup, tmp_path, steps) as url:
                yield url


def request(
    number: int,
    text: str = "What is the capital of France?",
    *,
    stream: bool,
    session: str | None = None,
    **fields: object,
) -> DemoRequest:
    values = {"kind": "plain", "max_tokens": 20, "check": "word", "expected": ("fox",), **fields}
    question = Question(id=f"q{number}", text=text, **values)  # type: ignore[arg-type]
    chunks = [{"text": "something else", "score": 0.1}]
    return DemoRequest(
        question=question,
        messages=({"role": "user", "content": text},),
        extra_body={"router": {"retrieved_chunks": chunks}} if question.carrier else {},
        stream=stream,
        session=session,
    )


async def run(
    url: str, requests: list[DemoRequest], finished: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    return await run_requests(requests, base_url=f"{url}/v1", prices=Prices(), concurrency=3, finished=finished)


async def test_runner_measures_every_route_and_agrees_with_the_gateways_metrics(gateway: str) -> None:
    long_text = "many words " * 1_500
    requests = [
        request(1, stream=False),
        request(2, stream=True),
        request(3, long_text, stream=True),
        request(4, stream=False, carrier="scored"),
        request(5, stream=True, reasoning_effort="high"),
        request(6, stream=False, model="student"),
        request(7, stream=True, model="teacher"),
        request(8, stream=False, model=ALIAS),
    ]
    seen: list[Result] = []
    results = await run(gateway, requests, seen.append)

    assert [(r.id, r.route, r.policy) for r in results] == [
        ("q1", "student", "default"),
        ("q2", "student", "default"),
        ("q3", "teacher", "long_context"),
        ("q4", "teacher", "retrieval_confidence"),
        ("q5", "teacher", "long_reasoning"),
        ("q6", "student", "request"),
        ("q7", "teacher", "request"),
        ("q8", "student", "default"),
    ]
    assert all(r.ok and r.correct and r.decision_id and r.reason and r.policy_version for r in results)
    assert all((r.ttft_s is not None) == r.stream and 0 < (r.ttft_s or 0.001) <= r.latency_s for r in results)
    assert len({r.decision_id for r in results}) == len(results)
    assert sorted(r.id for r in seen) == sorted(r.id for r in results)
    summary = summarize(results, planned=len(requests), wall_s=1.0, gateway=await gateway_counts(gateway))
    assert summary.gateway_agrees is True
    assert summary.problems == []


async def test_runner_reports_a_failure_and_goes_on_when_a_stream_breaks(gateway: str) -> None:
    requests = [
        request(1, "[[fault-reset-mid-3]] tell me", stream=True),
        request(2, stream=True),
        request(3, stream=False, model="no-such-model"),
    ]
    broken, whole, unknown = await run(gateway, requests)
    assert not broken.ok
    assert broken.error
    assert broken.correct is None
    assert whole.ok
    assert not unknown.ok
    assert "model_not_found" in (unknown.error or "") or "no-such-model" in (unknown.error or "")


async def test_runner_never_overlaps_requests_of_one_session(gateway: str) -> None:
    order: list[str] = []
    slow = "[[fake-delay-0.2]] hello"
    requests = [request(n, slow if n == 1 else "hello", stream=False, session="s") for n in range(1, 5)]
    await run(gateway, requests, lambda result: order.append(result.id))
    assert order == ["q1", "q2", "q3", "q4"]


async def test_gateway_is_gone_when_the_demo_leaves_it(tmp_path: Path) -> None:
    async with FakeBackend(models=("student", "teacher")) as backend:
        endpoint = Endpoint(backend.base_url, "student")
        setup = GatewaySetup(
            port=free_port(), student=endpoint, teacher=Endpoint(backend.base_url, "teacher"), prices=Prices(),
            compute_similarities=False,
        )  # fmt: skip
        with Steps(Console(file=(tmp_path / "console").open("w"))) as steps:
            async with running_gateway(setup, tmp_path, steps):
                pid = next(pid for pid in _processes() if str(tmp_path / "locum.toml") in _command_line(pid))
            assert str(tmp_path / "locum.toml") not in _command_line(pid)
    assert free_port(setup.port) == setup.port


def _processes() -> list[int]:
    return [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid()
    ]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
