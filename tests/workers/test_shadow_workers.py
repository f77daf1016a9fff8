"""Shadow answers with several workers: one budget between them, one sample, and nothing lost when one is told to stop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from policies.record import ShadowRecord
from policies.traffic.reader import decisions, read, shadows
from router.quality.sampling import uniform
from tests.workers.test_workers import eventually

pytestmark = pytest.mark.system

CONFIG = """
[server]
port = 0
workers = 2
idle_grace_s = 0.5
[student]
base_url = "{url}"
context_window_tokens = 8192
[teacher]
base_url = "{url}"
price_usd_per_1m_input_tokens = 2.5
price_usd_per_1m_output_tokens = 10.0
[log]
dir = "{folder}/traffic"
write_timeout_s = 10.0
[quality.shadow]
student_share = 0.7
salt = "workers"
max_queue = 1000
budget_usd_per_day = 1.0
drain_timeout_s = 2.0
"""
DEAR = "[[fake-prompt-tokens-19992-tokens-2]]"
"""0.05 USD at the teacher, and about nothing by an estimate from the length of the prompt."""
CHEAP_USD = 0.05


@pytest.fixture
def backend() -> Iterator[BackendThread]:
    with BackendThread(models=("student", "teacher")) as running:
        yield running


@pytest.fixture
def serving(backend: BackendThread, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`locum serve` and its address."""
    config, log = tmp_path / "locum.toml", tmp_path / "serve.log"
    config.write_text(CONFIG.format(url=backend.base_url, folder=tmp_path))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", "from router.cli import main; main()", "serve", "-c", str(config)],
            stderr=out,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    eventually(lambda: "listens on" in log.read_text() or process.poll() is not None)
    found = re.search(r"listens on (http://\S+)", log.read_text())
    assert found, log.read_text()
    yield process, found[1]
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_workers_share_one_budget_and_every_draw_has_its_record(
    serving: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    process, url = serving

    def say(number: int) -> str:
        body = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": f"{DEAR} {number}"}]}
        response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)
        assert response.status_code == 200, response.text
        return response.headers["x-router-decision-id"]

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(say, range(60)))
    drawn = {each for each in ids if uniform("workers", each) < 0.7}
    eventually(lambda: len(list(shadows(tmp_path / "traffic"))) >= len(drawn))
    text = httpx.get(f"{url}/metrics", timeout=30).text
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    found = list(shadows(tmp_path / "traffic"))
    assert {record.decision_id for record in decisions(tmp_path / "traffic")} == set(ids)
    assert {shadow.decision_id for shadow in found} == drawn
    assert len(found) == len(drawn)
    statuses = Counter(shadow.status for shadow in found)
    assert set(statuses) == {"ok", "skipped_budget"}
    spent_usd = sum(shadow.cost_usd or 0.0 for shadow in found)
    overdrawn_usd = 2 * 2 * CHEAP_USD  # what was under way in both workers when the budget ended
    assert 1.0 - CHEAP_USD < spent_usd <= 1.0 + overdrawn_usd
    counted = re.search(r'^router_shadow_cost_usd_total\{asked="teacher"\} (\S+)$', text, re.MULTILINE)
    assert counted
    assert float(counted[1]) == pytest.approx(spent_usd)


def test_killed_worker_loses_no_answered_request_and_doubles_no_shadow(
    serving: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    _, url = serving
    ids: list[str] = []

    def say() -> None:
        body = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        with suppress(httpx.HTTPError):  # the one that is killed answers no more
            response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)
            if response.status_code == 200:
                ids.append(response.headers["x-router-decision-id"])

    for number in range(60):
        if number in (20, 40):
            process, _ = serving
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            workers = [pid for pid in map(int, children) if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            os.kill(workers[0], signal.SIGKILL)
        say()
    log = tmp_path / "traffic"
    kept = {record.decision_id for record in decisions(log)}
    assert set(ids) <= kept
    reading = read(log)
    found = [record for record in reading if isinstance(record, ShadowRecord)]
    assert not reading.damage
    assert not reading.doubled
    shadowed = [record.decision_id for record in found]
    assert len(shadowed) == len(set(shadowed))
    assert set(shadowed) <= kept
    assert len(shadowed) > len(kept) // 3
