"""Several gateway processes on one port, as an operator runs them: merged metrics, restarts, drains."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from policies.traffic.reader import decisions

pytestmark = pytest.mark.system

CONFIG = """
[server]
port = 0
workers = 2
idle_grace_s = 0.5
probe_interval_s = 60.0
[student]
base_url = "{url}"
context_window_tokens = 8192
[teacher]
base_url = "{url}"
model = "student"
[log]
dir = "{folder}/traffic"
write_timeout_s = 10.0
"""
WORKER = "router.workers.worker"


class Serving:
    """`locum serve` with its workers."""

    def __init__(self, folder: Path, backend: BackendThread, text: str = CONFIG) -> None:
        self.folder = folder
        config = folder / "locum.toml"
        config.write_text(text.format(url=backend.base_url, folder=folder))
        self.log = folder / "serve.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from router.cli import main; main()", "serve", "-c", str(config)],
                stderr=log,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
        eventually(lambda: "listens on" in self.log.read_text() or self.process.poll() is not None)
        found = re.search(r"listens on (http://\S+)", self.log.read_text())
        assert found, self.log.read_text()
        self.url = found[1]

    def workers(self) -> set[int]:
        """Process ids of those that live."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {int(pid) for pid in children if WORKER in _command(int(pid))}

    def ask(self, content: str = "hi") -> httpx.Response:
        """One request over a connection of its own."""
        body = {"model": "auto", "messages": [{"role": "user", "content": content}]}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=30)

    def counted(self) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return sum(float(v) for v in re.findall(r"^router_requests_total\{.*\} (\S+)$", text, re.MULTILINE))

    def metric(self, name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", httpx.get(f"{self.url}/metrics", timeout=30).text, re.MULTILINE)
        assert found, name
        return float(found[1])


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def eventually(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline_s, "the condition never became true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def backend() -> Iterator[BackendThread]:
    with BackendThread(models=("student",)) as running:
        yield running


@pytest.fixture(scope="module")
def serving(backend: BackendThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    running = Serving(tmp_path_factory.mktemp("workers"), backend)
    yield running
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(60)


def test_every_worker_shows_the_counts_of_all(serving: Serving) -> None:
    before = serving.counted()
    assert [serving.ask().status_code for _ in range(20)] == [200] * 20
    assert [serving.counted() for _ in range(6)] == [before + 20] * 6
    assert serving.metric("router_inflight_requests") == 0
    assert serving.metric("router_spool_lag_records") == 0


def test_killed_worker_is_replaced_and_nothing_that_it_counted_is_lost(serving: Serving) -> None:
    assert serving.ask().status_code == 200
    before, workers = serving.counted(), serving.workers()
    assert len(workers) == 2
    os.kill(next(iter(workers)), signal.SIGKILL)
    eventually(lambda: len(serving.workers()) == 2 and serving.workers() != workers)
    assert serving.ask().status_code == 200
    assert serving.counted() == before + 1


def test_rolling_restart_fails_no_request_when_it_happens_under_load(serving: Serving) -> None:
    before, counted = serving.workers(), serving.counted()
    failures, answers = asyncio.run(_load_until(serving, lambda: not before & serving.workers()))
    assert failures == []
    assert answers > 20
    eventually(lambda: len(serving.workers()) == 2)
    assert serving.counted() == counted + answers
    ids = [record.decision_id for record in decisions(serving.folder / "traffic")]
    assert len(ids) == len(set(ids)) == serving.counted()


async def _load_until(serving: Serving, done: Callable[[], bool]) -> tuple[list[str], int]:
    """Clients that keep their connections and never try twice, while the workers are replaced."""
    failures: list[str] = []
    answers, stopped = 0, asyncio.Event()

    async def work(number: int) -> None:
        nonlocal answers
        body = {"model": "auto", "messages": [{"role": "user", "content": "[[fake-tokens-4-gap-0.01]]"}]}
        async with httpx.AsyncClient(base_url=serving.url, timeout=60) as client:
            while not stopped.is_set():
                stream = number % 2 == 0
                try:
                    response = await client.post("/v1/chat/completions", json=body | {"stream": stream})
                except httpx.HTTPError as exc:
                    failures.append(repr(exc))
                    return
                complete = response.text.endswith("data: [DONE]\n\n") if stream else bool(response.json())
                if response.status_code != 200 or not complete:
                    failures.append(response.text[-200:])
                answers += 1
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(work(number))
        serving.process.send_signal(signal.SIGUSR2)
        await asyncio.to_thread(eventually, done)
        await asyncio.sleep(0.5)
        stopped.set()
    return failures, answers


def test_running_stream_ends_whole_when_all_workers_are_told_to_stop(backend: BackendThread, tmp_path: Path) -> None:
    serving = Serving(tmp_path, backend)
    workers = serving.workers()
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "[[fake-tokens-8-gap-0.1]]"}]}
    with httpx.stream("POST", f"{serving.url}/v1/chat/completions", json=body, timeout=30) as response:
        chunks = response.iter_text()
        text = next(chunks)
        serving.process.send_signal(signal.SIGTERM)
        text += "".join(chunks)
    assert text.endswith("data: [DONE]\n\n")
    assert serving.process.wait(60) == 0
    assert not any(WORKER in _command(pid) for pid in workers)


def test_workers_end_when_their_parent_is_killed(backend: BackendThread, tmp_path: Path) -> None:
    serving = Serving(tmp_path, backend)
    workers = serving.workers()
    serving.process.kill()
    serving.process.wait()
    assert len(workers) == 2
    eventually(lambda: not any(WORKER in _command(pid) for pid in workers))
    assert not any(WORKER in _command(pid) for pid in workers)


def test_serve_fails_when_no_worker_can_start(tmp_path: Path, backend: BackendThread) -> None:
    config = tmp_path / "locum.toml"
    text = CONFIG.format(url=backend.base_url, folder=tmp_path).replace(
        "workers = 2", "workers = 2\nworker_start_timeout_s = 0.01"
    )
    config.write_text(text)
    command = [sys.executable, "-c", "from router.cli import main; main()", "serve", "-c", str(config)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, check=False, timeout=120)
    assert ended.returncode == 1
    assert "a worker did not start" in ended.stderr
