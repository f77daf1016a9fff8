"""The traffic log: append-only segments, one checksummed line a record, written by a thread in groups.

A line is `<crc32 of the JSON, 8 hex digits> <JSON>\\n`. Requests that finish in the same turn of the event loop, or
while the write before is under way, share one write(2). `append` resolves when the operating system has the bytes, so
that killing this process loses no record of an answered request; fsync follows on its own thread within
`fsync_interval_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import secrets
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from router.config import ConfigError, LogConfig
from router.metrics import Metrics

logger = logging.getLogger(__name__)

SUFFIX = ".seg"
FRAME_OVERHEAD_BYTES = 10
"""The checksum, the space and the line end around a record."""


def frame(payload: bytes) -> bytes:
    """One line of a segment."""
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def read_segment(path: Path) -> Iterator[bytes]:
    """The JSON of every sound record in a segment, in order; stops at the first torn or damaged line."""
    with path.open("rb") as file:
        for line in file:
            payload = _unframe(line)
            if payload is None:
                return
            yield payload


def _unframe(line: bytes) -> bytes | None:
    if len(line) < 11 or not line.endswith(b"\n") or line[8:9] != b" ":
        return None
    payload = line[9:-1]
    return payload if line[:8] == b"%08x" % zlib.crc32(payload) else None


def repair_torn_tails(folder: Path) -> int:
    """Cut the unfinished last line off segments that no living process writes.

    Returns:
        How many segments were cut. A damaged line that is not the last is left for inspection.
    """
    cut = 0
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # another gateway is writing it
            end = _sound_end(file)
            if end < os.fstat(file.fileno()).st_size:
                logger.warning("traffic log: cut a torn record off %s", path.name)
                file.truncate(end)
                cut += 1
    return cut


def _sound_end(file: BinaryIO) -> int:
    """Where the last complete line ends. A complete line with a wrong checksum was damaged later: it stays."""
    size = file.seek(0, os.SEEK_END)
    block = 64 * 1024
    at = size
    while at > 0:
        start = max(0, at - block)
        file.seek(start)
        newline = file.read(at - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        at = start
    return 0


class Batch:
    """Records that share one write, and the answers that wait for it."""

    def __init__(self, deadline_s: float) -> None:
        self.payloads: list[bytes] = []
        self.size_bytes = 0
        self.deadline_s = deadline_s
        """Loop time at which its answers go out, written or not."""
        self._waiting: list[asyncio.Future[bool]] = []

    def add(self, payload: bytes, size_bytes: int, loop: asyncio.AbstractEventLoop) -> asyncio.Future[bool]:
        """What resolves when the record is written; a future of its own, because its request may be cancelled."""
        self.payloads.append(payload)
        self.size_bytes += size_bytes
        written = loop.create_future()
        self._waiting.append(written)
        return written

    @property
    def abandoned(self) -> bool:
        """Whether its answers went out before it was written."""
        return not self._waiting

    def release(self, *, written: bool) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(written)
        self._waiting.clear()


class TrafficLog:
    """Writes decision records. One instance a process; start and stop it inside the event loop.

    One write is under way at a time. Records that finish meanwhile gather for the next one, so that a busy gateway
    wakes the writing thread seldom and an idle one waits for nothing. The event loop itself never touches the file.
    """

    def __init__(self, config: LogConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._batches: deque[Batch] = deque()
        """What is not written yet, oldest first."""
        self._writing = False
        """Whether the oldest batch is with the writing thread."""
        self._open: Batch | None = None
        """The batch that takes the next record. One that is being written, or whose answers have gone out unwritten,
        takes no more: later answers wait their own time."""
        self._watch: asyncio.TimerHandle | None = None
        self._waiting_bytes = 0
        self._waiting_records = 0
        metrics.spool_lag.set_function(lambda: self._waiting_records)
        self.segment = Segment(Path(config.dir), config.segment_bytes)
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    async def start(self) -> None:
        """Repair what a crash left, open a segment, start the threads. Raises: OSError."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.segment.prepare)
        for target in (self._write_batches, self._fsync_regularly):
            thread = threading.Thread(target=target, name=f"traffic-log-{target.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def check(self) -> None:
        """Raises: ConfigError when the folder cannot be written."""
        folder = Path(self._config.dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as exc:
            raise ConfigError("log.dir", [f"{folder} cannot be written: {exc.strerror}"]) from exc

    async def stop(self) -> None:
        """Write what waits, fsync, close."""
        self._stopped.set()
        self._open = None
        for batch in list(self._batches)[self._writing :]:
            self._queue.put(batch)
        self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 10)
        await asyncio.to_thread(self.segment.close)

    async def append(self, payload: bytes) -> bool:
        """Hand a record to the operating system.

        Returns:
            False when it was not written within `write_timeout_s` (counted by cause); it may still be written later.
        """
        size_bytes = len(payload) + FRAME_OVERHEAD_BYTES
        if self._waiting_bytes + size_bytes > self._config.max_queue_bytes:
            self._metrics.spool_dropped.labels("queue_full").inc()
            return False
        self._waiting_bytes += size_bytes
        self._waiting_records += 1
        batch = self._open or self._new_batch()
        return await batch.add(payload, size_bytes, self._loop)

    def _new_batch(self) -> Batch:
        batch = self._open = Batch(self._loop.time() + self._config.write_timeout_s)
        self._batches.append(batch)
        if self._watch is None:
            self._watch = self._loop.call_at(batch.deadline_s, self._release_late_answers)
        if not self._writing:
            self._loop.call_soon(self._hand_over)  # not at once: what finishes in this turn of the loop joins it
        return batch

    def _hand_over(self) -> None:
        if self._batches and not self._writing and not self._stopped.is_set():
            self._writing = True
            batch = self._batches[0]
            self._close(batch)
            self._queue.put(batch)

    def _close(self, batch: Batch) -> None:
        if batch is self._open:
            self._open = None

    def _release_late_answers(self) -> None:
        """One timer serves all batches: it looks at those that are left, and goes to sleep when there are none."""
        self._watch = None
        now_s = self._loop.time()
        for batch in self._batches:
            if batch.abandoned:
                continue
            if batch.deadline_s > now_s:
                self._watch = self._loop.call_at(batch.deadline_s, self._release_late_answers)
                return
            self._metrics.spool_dropped.labels("slow").inc(len(batch.payloads))
            batch.release(written=False)
            self._close(batch)

    def _finished(self, cause: str | None) -> None:
        batch = self._batches.popleft()
        self._writing = False
        self._waiting_records -= len(batch.payloads)
        self._waiting_bytes -= batch.size_bytes
        if cause is not None and not batch.abandoned:
            self._metrics.spool_dropped.labels(cause).inc(len(batch.payloads))
        batch.release(written=cause is None)
        self._hand_over()

    def _write_batches(self) -> None:
        complained_at_s = float("-inf")
        while (batch := self._queue.get()) is not None:
            cause = None
            try:
                self.segment.write(b"".join(map(frame, batch.payloads)))
            except OSError as exc:
                cause = "disk_full" if exc.errno in _FULL else "write_error"
                if time.monotonic() - complained_at_s > 60:  # a full disk must not fill the log of the process too
                    complained_at_s = time.monotonic()
                    logger.error("traffic log: a batch was not written: %s", exc.strerror)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._finished, cause)

    def _fsync_regularly(self) -> None:
        while not self._stopped.wait(self._config.fsync_interval_s):
            self.segment.sync()


_FULL = (28, 122)  # ENOSPC, EDQUOT


class Segment:
    """The file that one thread appends to and another one fsyncs; a new file starts at `limit_bytes`.

    The lock guards the descriptors and is never held over a system call that may take long: the writer does not
    wait for the other thread's fsync, not even when it changes files.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self.descriptor = -1
        self._full: list[int] = []
        """Descriptors of earlier files that are still to be fsynced and closed."""
        self._size = 0
        self._lock = threading.Lock()
        self._dirty = False

    def prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        repair_torn_tails(self._folder)
        self._open()

    def write(self, data: bytes) -> None:
        """Append all of `data` or none of it.

        Raises:
            OSError: disk full and the like; a part that was written is cut off again.
        """
        if self.descriptor < 0 or (self._size + len(data) > self._limit_bytes and self._size):
            self._open()
        done = 0
        try:
            while done < len(data):
                done += os.write(self.descriptor, data[done:] if done else data)
        except OSError:
            if done:
                self._cut_off_rest()
            raise
        self._size += done
        self._dirty = True

    def _cut_off_rest(self) -> None:
        """What is torn must stay the end of its file: if it cannot be cut off, the next write opens another one."""
        try:
            os.ftruncate(self.descriptor, self._size)
        except OSError:
            self._set_descriptor(-1)

    def sync(self) -> None:
        """fsync what was written since the last time, and close files that are full; runs beside `write`."""
        with self._lock:
            full, self._full = self._full, []
            current = self.descriptor if self._dirty else -1
            self._dirty = False
        for descriptor in full:
            _fsync(descriptor)
            os.close(descriptor)
        if current >= 0:
            _fsync(current)

    def close(self) -> None:
        """To be called when both threads have ended."""
        self._set_descriptor(-1)
        self.sync()

    def _open(self) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        path = self._folder / f"{stamp}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._size = 0
        self._set_descriptor(fd)

    def _set_descriptor(self, descriptor: int) -> None:
        with self._lock:
            if self.descriptor >= 0:
                self._full.append(self.descriptor)
            self.descriptor = descriptor


def _fsync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as exc:
        logger.error("traffic log: fsync failed: %s", exc.strerror)
