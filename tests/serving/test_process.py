"""One child process: where its output goes, and on which cores it runs."""

from __future__ import annotations

from pathlib import Path

import httpx

from serving.process import LogTail
from tests.serving.conftest import MakeFake


async def test_log_file_gets_what_the_process_writes(make_fake: MakeFake, tmp_path: Path) -> None:
    log_file = tmp_path / "logs" / "student.log"
    fake = make_fake(log_file=log_file)
    async with fake.supervisor as supervisor:
        await supervisor.ready()
        assert "loading weights" in supervisor.log_tail
    assert log_file.read_text() == "loading weights\n"


async def test_child_is_confined_to_its_cores(make_fake: MakeFake) -> None:
    fake = make_fake(cpu_cores=(0,))
    async with fake.supervisor as supervisor:
        await supervisor.ready()
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.post(f"{fake.url}/well")).json()["affinity"] == [0]


def test_log_tail_is_bounded_and_keeps_the_last_state_of_progress_bars() -> None:
    tail = LogTail(max_lines=3)
    for n in range(1000):
        tail.feed(f"line {n}\n".encode())
    tail.feed(b"loading 0%\rloading 50%\rloading 100%\nhalf ")
    assert tail.lines() == ["line 998", "line 999", "loading 100%", "half "]
    tail.feed("a \N{SNOWMAN}".encode()[:-1])
    tail.feed("\N{SNOWMAN}".encode()[-1:] + b"\n")
    assert tail.last_line() == "half a \N{SNOWMAN}"
    tail.feed(b"x" * 10_000_000)
    assert len(tail.last_line()) == 2000
