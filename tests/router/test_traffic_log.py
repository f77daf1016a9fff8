"""The traffic log: what it keeps when processes die and disks fill up."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from router.config import LogConfig
from router.metrics import Metrics
from router.traffic_log import Segment, TrafficLog, frame, read_segment, repair_torn_tails


def payloads(folder: Path) -> list[bytes]:
    return [payload for path in sorted(folder.glob("*.seg")) for payload in read_segment(path)]


def config(folder: Path, **options: object) -> LogConfig:
    return LogConfig.model_validate({"dir": str(folder), **options})


async def test_record_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    log = TrafficLog(config(tmp_path), Metrics())
    await log.start()
    assert await log.append(b'{"n":1}')
    assert payloads(tmp_path) == [b'{"n":1}']
    await log.stop()


async def test_records_that_finish_together_share_one_batch_and_keep_their_order(tmp_path: Path) -> None:
    log = TrafficLog(config(tmp_path), Metrics())
    await log.start()
    await asyncio.gather(*(log.append(b'{"n":%d}' % n) for n in range(500)))
    await log.stop()
    assert [json.loads(payload)["n"] for payload in payloads(tmp_path)] == list(range(500))


async def test_segment_is_rotated_when_it_is_full(tmp_path: Path) -> None:
    log = TrafficLog(config(tmp_path, segment_bytes=4096), Metrics())
    await log.start()
    for n in range(100):
        await log.append(b'{"n":%d,"pad":"%s"}' % (n, b"x" * 200))
    await log.stop()
    files = sorted(tmp_path.glob("*.seg"))
    assert len(files) > 3
    assert all(path.stat().st_size <= 4096 for path in files)
    assert sorted(json.loads(payload)["n"] for payload in payloads(tmp_path)) == list(range(100))


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_torn_tail_is_cut_off_at_start_and_whole_records_stay(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.seg"
    path.write_bytes(frame(b'{"n":1}') + frame(b'{"n":2}')[:-cut])
    assert repair_torn_tails(tmp_path) == 1
    assert path.read_bytes() == frame(b'{"n":1}')
    assert repair_torn_tails(tmp_path) == 0


def test_segment_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    segment = Segment(tmp_path, 1_000_000)
    segment.prepare()
    path = next(tmp_path.glob("*.seg"))
    path.write_bytes(b"half a rec")
    assert repair_torn_tails(tmp_path) == 0
    assert path.read_bytes() == b"half a rec"
    segment.close()


def test_reading_stops_at_a_damaged_record(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    path.write_bytes(frame(b'{"n":1}') + frame(b'{"n":2}').replace(b"2", b"3", 1) + frame(b'{"n":4}'))
    assert list(read_segment(path)) == [b'{"n":1}']


async def test_answer_goes_out_and_is_counted_when_the_disk_refuses(tmp_path: Path) -> None:
    metrics = Metrics()
    log = TrafficLog(config(tmp_path), metrics)
    await log.start()
    os.close(log.segment.descriptor)
    log.segment.descriptor = os.open("/dev/full", os.O_WRONLY)  # every write to it: no space left on device
    assert not await log.append(b"{}")
    assert metrics.registry.get_sample_value("router_spool_dropped_total", {"cause": "disk_full"}) == 1
    assert metrics.registry.get_sample_value("router_spool_lag_records") == 0
    await log.stop()


async def test_record_is_refused_and_counted_when_too_many_wait(tmp_path: Path) -> None:
    metrics = Metrics()
    log = TrafficLog(config(tmp_path, max_queue_bytes=4096), metrics)
    await log.start()
    results = await asyncio.gather(*(log.append(b'"' + b"x" * 1000 + b'"') for _ in range(10)))
    await log.stop()
    assert results.count(False) == 10 - results.count(True) > 0
    dropped = metrics.registry.get_sample_value("router_spool_dropped_total", {"cause": "queue_full"})
    assert dropped == results.count(False)
    assert len(payloads(tmp_path)) == results.count(True)


WRITER = """
import asyncio, sys
from router.config import LogConfig
from router.metrics import Metrics
from router.traffic_log import TrafficLog

async def main():
    log = TrafficLog(LogConfig(dir=sys.argv[1]), Metrics())
    await log.start()
    async def client(k):
        n = 0
        while True:
            if await log.append(b'{"id":"%d-%d"}' % (k, n)):
                print(f"{k}-{n}", flush=True)
            n += 1
    await asyncio.gather(*(client(k) for k in range(8)))

asyncio.run(main())
"""


def test_no_acknowledged_record_is_lost_or_doubled_when_the_process_is_killed(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert writer.stdout is not None
        lines = [writer.stdout.readline().strip() for _ in range(400)]
        writer.send_signal(signal.SIGKILL)
        lines += [line.strip() for line in writer.stdout if line.endswith("\n")]
        writer.wait()
        # The processes number their records alike, so each one's file is compared with its own acknowledgements.
        repair_torn_tails(tmp_path)
        newest = max(tmp_path.glob("*.seg"), key=lambda path: path.stat().st_mtime_ns)
        written = [json.loads(payload)["id"] for payload in read_segment(newest)]
        assert len(written) == len(set(written))
        assert set(lines) <= set(written)
        acknowledged |= set(lines)
    assert len(acknowledged) >= 400
