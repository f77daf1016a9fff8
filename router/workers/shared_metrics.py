"""Metrics of several workers as one: each counts in files of a folder that all of them read.

prometheus_client keeps every value in a memory-mapped file of its process when PROMETHEUS_MULTIPROC_DIR is set before
it is imported; nothing that was counted is lost when a worker is killed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
FORMER = "former"
"""Stands for a process id in the names of the files with what ended workers have counted."""
_LOCK = ".lock"


def exposition(registry: CollectorRegistry) -> bytes:
    """The text of this process's metrics, or of all workers' where they share a folder."""
    with _of_all_workers(registry) as merged:
        return generate_latest(merged)


def families(registry: CollectorRegistry) -> list[Metric]:
    """The same as values."""
    with _of_all_workers(registry) as merged:
        return list(merged.collect())


@contextmanager
def _of_all_workers(registry: CollectorRegistry) -> Iterator[CollectorRegistry]:
    """What to read while nobody changes the set of files."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        yield registry
        return
    merged = CollectorRegistry()
    MultiProcessCollector(merged, path=folder)  # type: ignore[no-untyped-call]
    with _locked(Path(folder), fcntl.LOCK_SH):
        yield merged


def bury(folder: Path, pid: int) -> None:
    """Keep what an ended worker has counted and forget its gauges, so that the folder does not grow with restarts."""
    with _locked(folder, fcntl.LOCK_EX):
        mark_process_dead(pid, path=str(folder))  # type: ignore[no-untyped-call]
        for kind in ("counter", "histogram"):
            source = folder / f"{kind}_{pid}.db"
            if source.exists():
                _add(source, folder / f"{kind}_{FORMER}.db")
                source.unlink()


def _add(source: Path, target: Path) -> None:
    total = MmapedDict(str(target))  # type: ignore[no-untyped-call]
    try:
        values = MmapedDict.read_all_values_from_file(str(source))  # type: ignore[no-untyped-call]
        for key, value, timestamp, _ in values:
            before, _ = total.read_value(key)  # type: ignore[no-untyped-call]
            total.write_value(key, before + value, timestamp)  # type: ignore[no-untyped-call]
    finally:
        total.close()  # type: ignore[no-untyped-call]


@contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    """A scrape must not see a worker's counts twice, or not at all."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)
