"""The traffic log: append-only segments, one checksummed line a record, written by a thread in groups.

A line is `<crc32 of the JSON, 8 hex digits> <JSON>\\n`. Requests that finish in the same turn of the event loop
share one write(2). `append` resolves when the operating system has the bytes, so that killing this process loses no
record of an answered request; fsync follows on its own thread within `fsync_interval_s`.
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
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from router.config import ConfigError, LogConfig
from router.metrics import Metrics

logger = logging.getLogger(__name__)

SUFFIX = ".seg"


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
    """Records that share one write. `written` resolves to True, or to False when the answer must not wait longer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lines: list[bytes] = []
        self.written: asyncio.Future[bool] = loop.create_future()
        self.timer: asyncio.TimerHandle | None = None


class TrafficLog:
    """Writes decision records. One instance a process; start and stop it inside the event loop."""

    def __init__(self, config: LogConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._open_batch: Batch | None = None
        self._waiting_bytes = 0
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
        self._hand_over()
        self._stopped.set()
        self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 10)
        await asyncio.to_thread(self.segment.close)

    async def append(self, payload: bytes) -> bool:
        """Hand a record to the operating system.

        Returns:
            False when it was not written within `write_timeout_s` (counted by cause); it may still be written later.
        """
        line = frame(payload)
        if self._waiting_bytes + len(line) > self._config.max_queue_bytes:
            self._metrics.spool_dropped.labels("queue_full").inc()
            return False
        batch = self._open_batch
        if batch is None:
            batch = self._open_batch = Batch(self._loop)
            self._loop.call_soon(self._hand_over)
        batch.lines.append(line)
        self._waiting_bytes += len(line)
        self._metrics.spool_lag.inc()
        return await asyncio.shield(batch.written)

    def _hand_over(self) -> None:
        batch, self._open_batch = self._open_batch, None
        if batch is not None:
            batch.timer = self._loop.call_later(self._config.write_timeout_s, self._give_up_waiting, batch)
            self._queue.put(batch)

    def _give_up_waiting(self, batch: Batch) -> None:
        if not batch.written.done():
            self._metrics.spool_dropped.labels("slow").inc(len(batch.lines))
            batch.written.set_result(False)

    def _finished(self, batch: Batch, cause: str | None) -> None:
        self._metrics.spool_lag.dec(len(batch.lines))
        self._waiting_bytes -= sum(map(len, batch.lines))
        if batch.timer is not None:
            batch.timer.cancel()
        if cause is not None and not batch.written.done():
            self._metrics.spool_dropped.labels(cause).inc(len(batch.lines))
        if not batch.written.done():
            batch.written.set_result(cause is None)

    def _write_batches(self) -> None:
        complained_at_s = float("-inf")
        while (batch := self._queue.get()) is not None:
            cause = None
            try:
                self.segment.write(b"".join(batch.lines))
            except OSError as exc:
                cause = "disk_full" if exc.errno in _FULL else "write_error"
                if time.monotonic() - complained_at_s > 60:  # a full disk must not fill the log of the process too
                    complained_at_s = time.monotonic()
                    logger.error("traffic log: a batch was not written: %s", exc.strerror)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._finished, batch, cause)

    def _fsync_regularly(self) -> None:
        while not self._stopped.wait(self._config.fsync_interval_s):
            self.segment.sync()


_FULL = (28, 122)  # ENOSPC, EDQUOT


class Segment:
    """The file that this process appends to; a new one starts at `limit_bytes`."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self.descriptor = -1
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
            self._rotate()
        done = 0
        try:
            while done < len(data):
                done += os.write(self.descriptor, data[done:] if done else data)
        except OSError:
            if done:
                os.ftruncate(self.descriptor, self._size)
            raise
        self._size += done
        self._dirty = True

    def sync(self) -> None:
        """fsync if something was written since the last one; runs beside `write`."""
        if not self._dirty:
            return
        self._dirty = False
        with self._lock:
            if self.descriptor >= 0:
                try:
                    os.fsync(self.descriptor)
                except OSError as exc:
                    logger.error("traffic log: fsync failed: %s", exc.strerror)

    def close(self) -> None:
        self.sync()
        with self._lock:
            if self.descriptor >= 0:
                os.close(self.descriptor)
                self.descriptor = -1

    def _rotate(self) -> None:
        self.close()
        self._open()

    def _open(self) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        path = self._folder / f"{stamp}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._size = 0
        with self._lock:
            self.descriptor = fd
