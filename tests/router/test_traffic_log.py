"""The traffic log: what it keeps when processes die and disks fill up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from policies.traffic.segments import frame, read_segment
from router.config import LogConfig
from router.metrics import Metrics
from router.segments import Segment, repair_torn_tails
from router.traffic_log import TrafficLog


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


def blocked_fifo(path: Path) -> int:
    """The descriptor of a full FIFO: the next write(2) to it blocks until somebody reads."""
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"\n" * 4096)
    os.set_blocking(descriptor, True)
    return descriptor


def read_some(fifo: int, size_bytes: int) -> bytes:
    data = b""
    while len(data) < size_bytes:
        data += os.read(fifo, size_bytes - len(data))
    return data


@pytest.fixture
async def blocked(tmp_path: Path) -> AsyncIterator[tuple[TrafficLog, Metrics, int]]:
    """A log whose writes block, its metrics, and the full FIFO that it writes to."""
    metrics = Metrics()
    log = TrafficLog(config(tmp_path / "log", write_timeout_s=0.3), metrics)
    await log.start()
    fifo = blocked_fifo(tmp_path / "fifo")
    os.close(log.segment.descriptor)
    log.segment.descriptor = os.dup(fifo)
    rescue = threading.Timer(20, read_some, (fifo, 2**16))  # a loop that waits for the write would hang for ever
    rescue.start()
    yield log, metrics, fifo
    rescue.cancel()
    os.set_blocking(fifo, False)
    with contextlib.suppress(BlockingIOError):
        os.read(fifo, 2**20)
    await log.stop()
    os.close(fifo)


async def test_loop_goes_on_and_answers_go_out_when_the_write_blocks(
    blocked: tuple[TrafficLog, Metrics, int],
) -> None:
    log, metrics, fifo = blocked
    turns = 0
    early = [asyncio.create_task(log.append(b'{"n":%d}' % n)) for n in range(3)]
    while not all(task.done() for task in early):
        turns += 1
        await asyncio.sleep(0.001)
    assert turns > 5
    assert [task.result() for task in early] == [False] * 3
    assert not await log.append(b'{"n":3}')  # waits behind the blocked write, for as long as the first ones
    assert metrics.registry.get_sample_value("router_spool_dropped_total", {"cause": "slow"}) == 4
    assert metrics.registry.get_sample_value("router_spool_lag_records") == 4

    lines = b"".join(frame(b'{"n":%d}' % n) for n in range(4))
    last = asyncio.create_task(log.append(b'{"n":4}'))
    filler = await asyncio.to_thread(read_some, fifo, 2**16)
    assert not filler.strip()
    assert await last  # the disk is back: this one is written in time,
    assert os.read(fifo, 2**16) == lines + frame(b'{"n":4}')  # and those that nobody waited for were not lost
    assert metrics.registry.get_sample_value("router_spool_lag_records") == 0
    assert metrics.registry.get_sample_value("router_spool_dropped_total", {"cause": "slow"}) == 4


async def test_other_answers_wait_on_when_one_request_is_cancelled(blocked: tuple[TrafficLog, Metrics, int]) -> None:
    log, _, fifo = blocked
    cancelled, other = (asyncio.create_task(log.append(b'{"n":%d}' % n)) for n in range(2))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.to_thread(read_some, fifo, 2**16)
    assert await other
    assert cancelled.cancelled()
    assert os.read(fifo, 2**16) == frame(b'{"n":0}') + frame(b'{"n":1}')


async def test_what_still_waits_is_written_when_the_log_stops(blocked: tuple[TrafficLog, Metrics, int]) -> None:
    log, _, fifo = blocked
    tasks = []
    for n in range(3):
        tasks.append(asyncio.create_task(log.append(b'{"n":%d}' % n)))
        await asyncio.sleep(0)  # so that the first is with the writer when the others come
        await asyncio.sleep(0)
    stopping = asyncio.create_task(log.stop())
    await asyncio.sleep(0)
    await asyncio.to_thread(read_some, fifo, 2**16)
    await stopping
    assert os.read(fifo, 2**16) == b"".join(frame(b'{"n":%d}' % n) for n in range(3))
    await asyncio.gather(*tasks)


def test_writer_does_not_wait_for_fsync_when_it_opens_the_next_file(tmp_path: Path) -> None:
    segment = Segment(tmp_path, 4096)
    segment.prepare()
    first = segment.descriptor
    segment.write(b"x" * 4000 + b"\n")
    segment.write(b"y" * 4000 + b"\n")
    assert segment.descriptor != first
    os.fstat(first)  # still open: the other thread fsyncs and closes it
    segment.sync()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)
    segment.close()
    assert sorted(path.read_bytes()[:1] for path in tmp_path.glob("*.seg")) == [b"x", b"y"]


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


@pytest.mark.system
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
