"""What becomes of records when a gateway is killed under load, and when its disk is full."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from policies.traffic.reader import decisions, read
from router.log.compaction import compact
from tests.contract.conftest import CONFIG, RunningGateway, StartGateway

CLIENTS = 12
ANSWERS_BEFORE_KILL = 150


class ServedGateway:
    """`locum serve` as a process of its own."""

    def __init__(self, config: Path) -> None:
        command = [sys.executable, "-c", "from router.cli import main; main()", "serve", "-c", str(config)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "listens on" in line:
                self.origin = line.split()[-1].rstrip("/")
                return
        raise AssertionError("the gateway did not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


async def answered_until_killed(gateway: ServedGateway) -> set[str]:
    """Clients ask, half of them for streams, and the gateway dies in the middle; the ids of complete answers."""
    answered: set[str] = set()

    async def client(number: int, http: httpx.AsyncClient) -> None:
        stream = number % 2 == 0
        body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        while True:
            try:
                response = await http.post("/v1/chat/completions", json=body)
                text = response.text
            except httpx.HTTPError:
                return  # killed: this answer is not complete
            assert response.status_code == 200
            if text.rstrip().endswith("data: [DONE]") if stream else json.loads(text)["choices"]:
                answered.add(response.headers["x-router-decision-id"])

    async with httpx.AsyncClient(base_url=gateway.origin, timeout=20) as http:
        clients = [asyncio.create_task(client(number, http)) for number in range(CLIENTS)]
        while len(answered) < ANSWERS_BEFORE_KILL:
            assert not any(task.done() for task in clients), [task for task in clients if task.done()]
            await asyncio.sleep(0.005)
        await asyncio.to_thread(gateway.kill)
        await asyncio.gather(*clients)
    return answered


@pytest.mark.system
async def test_every_answered_request_has_its_record_once_when_gateways_are_killed_under_load(
    student: BackendThread, teacher: BackendThread, tmp_path: Path
) -> None:
    log = tmp_path / "traffic"
    config = tmp_path / "locum.toml"
    config.write_text(
        CONFIG.format(
            server="", student="", teacher="", rest="segment_bytes = 65536",
            student_url=student.base_url, teacher_url=teacher.base_url,
            student_model="student", teacher_model="teacher", log_dir=log,
        )
    )  # fmt: skip
    answered: set[str] = set()
    for round_ in range(3):
        gateway = await asyncio.to_thread(ServedGateway, config)
        try:
            answered |= await answered_until_killed(gateway)
        finally:
            if gateway.process.poll() is None:
                gateway.kill()
        if round_ == 1:  # compaction in between neither loses nor doubles
            compact(log, progress=lambda _: None)
    reading = read(log)
    logged = [record.decision_id for record in reading]
    assert len(answered) >= 3 * ANSWERS_BEFORE_KILL
    assert answered <= set(logged)
    assert len(logged) == len(set(logged))
    assert not reading.damage
    assert not reading.doubled


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    command = [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run([umount, "--lazy", str(folder)], check=True)


def answers(gateway: RunningGateway, count: int) -> list[int]:
    """The states of some requests with a prompt of 4 kB."""
    return [
        gateway.post({"model": "auto", "messages": [{"role": "user", "content": "x" * 4096}]}).status_code
        for _ in range(count)
    ]


def dropped(gateway: RunningGateway) -> float:
    return sum(gateway.metric(f'router_spool_dropped_total{{cause="{cause}"}}') for cause in ("disk_full", "slow"))


def test_requests_are_answered_and_counted_when_the_disk_is_full(small_disk: Path, start_gateway: StartGateway) -> None:
    gateway = start_gateway(log_dir=str(small_disk / "traffic"))
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize - 48 * 1024))
    assert answers(gateway, 20) == [200] * 20
    lost = dropped(gateway)
    assert 0 < lost < 20
    assert gateway.metric('router_spool_dropped_total{cause="disk_full"}') > 0
    assert len(list(decisions(small_disk / "traffic"))) >= 20 - lost

    filler.unlink()  # there is room again: so are the records, and what was torn did no harm
    assert answers(gateway, 5) == [200] * 5
    assert dropped(gateway) == lost
    reading = read(small_disk / "traffic")
    assert len(list(reading)) >= 25 - lost
    assert not reading.damage
