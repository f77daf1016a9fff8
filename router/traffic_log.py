"""The traffic log: decision records, written in groups by a thread before their answers end.

Requests that finish in the same turn of the event loop, or
while the write before is under way, share one write(2). `append` resolves when the operating system has the bytes, so
that killing this process loses no record of an answered request; fsync follows on its own thread within
`fsync_interval_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from policies.traffic.folder import describe, read_storage
from policies.traffic.sealing import Keyring, RecordSealer, SealError
from policies.traffic.segments import FRAME_OVERHEAD_BYTES, frame
from policies.traffic.stores import StoreError
from policies.traffic.tombstones import NO_KEY, LedgerError, subject_keys
from router.config import ConfigError, LogConfig
from router.metrics import Metrics
from router.segments import Segment

logger = logging.getLogger(__name__)

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})


class Batch:
    """Records that share one write, and the answers that wait for it."""

    def __init__(self, deadline_s: float) -> None:
        self.payloads: list[bytes] = []
        self.size_bytes = 0
        self.deadline_s = deadline_s
        """Loop time at which its answers go out, written or not."""
        self.written = False
        """Set by the writing thread, so that an answer is not counted as late while the good news is on its way."""
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


class Rotation:
    """Takes the place of a batch: begin a new segment."""


class TrafficLog:
    """Writes decision records. One instance a process; start and stop it inside the event loop.

    One write is under way at a time. Records that finish meanwhile gather for the next one, so that a busy gateway
    wakes the writing thread seldom and an idle one waits for nothing. The event loop itself never touches the file.
    """

    def __init__(self, config: LogConfig, metrics: Metrics, environ: Mapping[str, str] = os.environ) -> None:
        self._config = config
        self._metrics = metrics
        self._environ = environ
        self._sealer: RecordSealer | None = None
        self._subject_key = NO_KEY
        self._queue: queue.SimpleQueue[Batch | Rotation | None] = queue.SimpleQueue()
        self._batches: deque[Batch] = deque()
        """What is not written yet, oldest first."""
        self._writing = False
        """Whether the oldest batch is with the writing thread."""
        self._open: Batch | None = None
        """The batch that takes the next record. One that is being written, or whose answers have gone out unwritten,
        takes no more: later answers wait their own time."""
        self._watch: asyncio.TimerHandle | None = None
        self._waiting_bytes = 0
        self.segment = Segment(Path(config.dir), config.segment_bytes)
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    async def start(self) -> None:
        """Repair what a crash left, open a segment, start the threads. Raises: OSError."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._prepare)
        for target in (self._write_batches, self._fsync_regularly):
            thread = threading.Thread(target=target, name=f"traffic-log-{target.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _prepare(self) -> None:
        self._take_keys()
        describe(Path(self._config.dir), self._config.storage())
        self.segment.prepare()

    def _take_keys(self) -> None:
        """Raises: ConfigError."""
        config = self._config
        try:
            self._subject_key = subject_keys(config.subject_key_env, self._environ)[0]
            if config.encryption_key_env is not None:
                self._sealer = RecordSealer(Keyring.from_environment(config.encryption_key_env, self._environ))
            read_storage(Path(config.dir))
        except (SealError, LedgerError, StoreError) as exc:
            raise ConfigError("log", [str(exc)]) from exc

    def subject_of(self, name: str | None) -> str | None:
        """What a record says about whom it is for."""
        return self._subject_key.hash(name) if name else None

    def check(self) -> None:
        """Raises: ConfigError when the folder cannot be written, or a key is missing or wrong."""
        self._take_keys()
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
        self._metrics.add_spool_lag(1)
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
            if batch.abandoned or batch.written:
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
        self._metrics.add_spool_lag(-len(batch.payloads))
        self._waiting_bytes -= batch.size_bytes
        if cause is not None and not batch.abandoned:
            self._metrics.spool_dropped.labels(cause).inc(len(batch.payloads))
        batch.release(written=cause is None)
        self._hand_over()

    def _write_batches(self) -> None:
        complained_at_s = float("-inf")
        while (batch := self._queue.get()) is not None:
            if isinstance(batch, Rotation):
                self._rotate()
                continue
            cause = None
            try:
                sealer = self._sealer
                payloads = batch.payloads if sealer is None else map(sealer, batch.payloads)
                self.segment.write(b"".join(map(frame, payloads)))
                batch.written = True
            except OSError as exc:
                cause = "disk_full" if exc.errno in FULL_DISK else "write_error"
                if time.monotonic() - complained_at_s > 60:  # a full disk must not fill the log of the process too
                    complained_at_s = time.monotonic()
                    logger.error("traffic log: a batch was not written: %s", exc.strerror)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._finished, cause)

    def _fsync_regularly(self) -> None:
        while not self._stopped.wait(self._config.fsync_interval_s):
            self.segment.sync()
            if self.segment.is_asked_to_rotate():
                self._queue.put(Rotation())

    def _rotate(self) -> None:
        try:
            self.segment.rotate()
        except OSError as exc:
            logger.error("traffic log: no new segment could be begun: %s", exc.strerror)
