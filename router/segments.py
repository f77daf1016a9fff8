"""Writes segments (their format is in policies/traffic/segments.py): appends, starts files, repairs what a crash left.

A crash can tear the last line only, and the next start cuts that off; everything before it was complete.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
import time
from pathlib import Path
from typing import BinaryIO

from policies.traffic.segments import SUFFIX, whole_frames

logger = logging.getLogger(__name__)

MAX_TAIL_BYTES = 64 * 2**20
"""Looked at of what stands behind the last line end."""

ROTATE = "rotate"
"""Whoever touches this file in the folder asks all gateways to let go of the segments that they are writing."""


def repair_torn_tails(folder: Path) -> int:
    """Cut the unfinished last line off segments that no living process writes.

    Returns:
        How many segments were cut. A damaged line that is not the last is left for inspection.
    """
    cut = 0
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            cut += _repair(path)
        except BlockingIOError:
            continue  # another gateway is writing it
        except OSError as exc:
            logger.warning("traffic log: %s cannot be looked at: %s", path.name, exc.strerror)
    return cut


def _repair(path: Path) -> bool:
    """Whether something was cut off. Raises: BlockingIOError: somebody writes the file."""
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        end, size = _sound_end(file), os.fstat(file.fileno()).st_size
        if end == size:
            return False
        file.seek(end)
        if whole_frames(file.read(MAX_TAIL_BYTES)):
            return False  # the line end was damaged, not the record: a reader reports it
        logger.warning("traffic log: cut a torn record off %s", path.name)
        file.truncate(end)
        return True


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


def ask_to_rotate(folder: Path) -> None:
    """Every gateway that writes here begins a new segment within its `log.fsync_interval_s`. Raises: OSError."""
    path = folder / ROTATE
    path.touch(mode=0o600)
    os.utime(path)


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
        self._asked_ns = 0

    def prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        repair_torn_tails(self._folder)
        self.is_asked_to_rotate()
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

    def is_asked_to_rotate(self) -> bool:
        """Whether somebody has asked since this was called last; for the thread that fsyncs."""
        try:
            asked_ns = (self._folder / ROTATE).stat().st_mtime_ns
        except OSError:
            return False
        news, self._asked_ns = asked_ns != self._asked_ns, asked_ns
        return news

    def rotate(self) -> None:
        """Begin a new file; for the thread that writes. Raises: OSError: the present one goes on."""
        if self._size:
            self._open()

    def _open(self) -> None:
        while (descriptor := self._created()) is None:
            pass
        self._size = 0
        self._set_descriptor(descriptor)

    def _created(self) -> int | None:
        """A new file, locked. None when somebody who repairs or compacts took it for an abandoned one meanwhile."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        path = self._folder / f"{stamp}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BlockingIOError:
            pass
        os.close(descriptor)
        return None

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
