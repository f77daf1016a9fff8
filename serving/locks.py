"""Locks between processes, on files and folders: they end with their holder, `kill -9` included."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

LOCK_INTERVAL_S = 0.02


class LockHeld(Exception):
    """Another process has had the lock for too long."""


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold the lock file `path`, waiting for other holders.

    Raises:
        LockHeld: somebody has had it for that long.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline_s = time.monotonic() + timeout_s
        while not _flock(descriptor):
            if time.monotonic() > deadline_s:
                raise LockHeld(f"{path} has been held by another process for {timeout_s:g} s")
            time.sleep(LOCK_INTERVAL_S)
        yield
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock of a file or folder until it is closed; None when somebody else has it, or
    when it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if _flock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True
