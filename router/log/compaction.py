"""Compaction: segments that nobody writes any more become Parquet files, one for each day and kind, sorted by time.

What a crash does to it is told in router/log/workspace.py. A segment with a damaged line, or with an id that is there
already, stays as it is: that is for a person to look at.
"""

# ruff: noqa: S608 - nothing in these statements comes from a user; names are quoted

from __future__ import annotations

import fcntl
import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from policies.traffic.columns import BASE_COLUMNS, timestamp
from policies.traffic.compacted import CompactedFile, RecordKind
from policies.traffic.folder import LogFolder
from policies.traffic.reader import Damage, Doubled, Place, Reading, TrafficError
from policies.traffic.sql import stage
from policies.traffic.stores import Conflict
from policies.traffic.survey import Part, as_traffic_errors, ledger_of, open_folder, survey
from policies.traffic.tombstones import Ledger
from router.log.cleaning import clean_part
from router.log.workspace import Progress, Workspace, publish, sole_writer, sweep

SPARE_FILES = 128
"""What DuckDB, its spilled data and the rest of the process may have open beside the segments."""
MAX_CONFLICTS = 5
_DAY = f"strftime({timestamp('created_s')}, '%Y-%m-%d')"


@dataclass
class Compaction:
    """What a run did."""

    records: int = 0
    """Records that are in Parquet now and were not before."""
    segments: int = 0
    """Segments that were removed for it."""
    segment_bytes: int = 0
    forgotten: int = 0
    """Records that were left out because they had been erased."""
    files: list[CompactedFile] = field(default_factory=list)
    """Files that it wrote."""
    in_use: list[str] = field(default_factory=list)
    """Segments that a gateway is writing."""
    damage: list[Damage] = field(default_factory=list)
    doubled: list[Doubled] = field(default_factory=list)

    @property
    def left_alone(self) -> list[str]:
        """Segments with damage or doubled ids."""
        return sorted({each.place.file for each in self.damage} | {each.place.file for each in self.doubled})


def compact(
    folder: Path,
    *,
    progress: Progress,
    memory_limit: str = "2GB",
    threads: int | None = None,
    lock_wait_s: float = 0.0,
    now: Callable[[], float] = time.time,
) -> Compaction:
    """Compact a traffic folder. Gateways may write and others may read meanwhile.

    Args:
        threads: that DuckDB may use; default: one a core.
        lock_wait_s: for another compaction or an erasure to end.
    Raises:
        TrafficError: the folder cannot be read, or another compaction is under way.
        OSError: the disk is full, say; the log is as it was.
    """
    log = open_folder(folder)
    survey(log)
    with as_traffic_errors(log.path):  # what is wrong with the keys is told before anything is done
        _ = log.keyring
    with sole_writer(log, wait_s=lock_wait_s):
        for _ in range(MAX_CONFLICTS):
            try:
                return _compacted(log, progress, memory_limit, threads, now())
            except Conflict:
                progress("somebody else has published a manifest meanwhile; beginning again")
    raise TrafficError(f"{log.own.label} is changed by others all the time; is its storage.json on two machines?")


def _compacted(log: LogFolder, progress: Progress, memory_limit: str, threads: int | None, now_s: float) -> Compaction:
    done = Compaction()
    seen = survey(log)  # under the lock: another compaction may have ended just now
    own, ledger = seen.own, ledger_of(log)
    for part in seen.parts:
        if part.store.label in (log.own.label, log.local.label):
            sweep(log, part, now_s=now_s)
    with ExitStack() as stack:
        most = _most_open_files(len(seen.segments))
        if len(seen.segments) > most:
            progress(
                f"taking {most} of {len(seen.segments)} segments: more files may not be open (ulimit -n); run it again"
            )
        segments = _locked(log.path, seen.segments[:most], stack, done)
        space = stack.enter_context(Workspace.opened(log, memory_limit, threads))
        if not ledger.names <= set(own.manifest.tombstones):
            progress("leaving out what was erased")
            own = clean_part(space, own, ledger, now_s).part
        progress(f"reading {len(segments)} segments")
        segments = _staged(space, segments, own, done)
        if segments:
            done.segments = len(segments)
            done.segment_bytes = sum((log.path / name).stat().st_size for name in segments)
            own = _write_days(space, own, segments, ledger, done, progress, now_s)
        sweep(log, own, now_s=now_s)
    return done


def _most_open_files(wanted: int) -> int:
    """How many segments may be held open at once, after asking the system for as many as are wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, soft - SPARE_FILES)


def _locked(folder: Path, names: list[str], stack: ExitStack, done: Compaction) -> list[str]:
    """The segments that no process writes. They stay locked, so that no gateway repairs them meanwhile."""
    free = []
    for name in names:
        file = stack.enter_context((folder / name).open("rb"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            done.in_use.append(name)
        else:
            free.append(name)
    return free


def _staged(space: Workspace, segments: list[str], own: Part, done: Compaction) -> list[str]:
    """Read the segments into the table `staged`; the names of those that are sound and hold nothing known."""
    reading = Reading(space.log.path, compacted=lambda part: False, segments=tuple(segments))
    stage(space.connection, reading)
    done.damage, done.doubled, done.forgotten = reading.damage, reading.doubled, reading.counts.forgotten
    sources = space.sources(own)
    for kind in ("decisions", "feedback"):
        known = sources.select(lambda file, kind=kind: file.kind == kind)  # type: ignore[misc]
        if known:
            done.doubled += _known(space, known, kind)
    aside = done.left_alone
    space.connection.execute("DELETE FROM staged WHERE list_contains(?, file)", [aside])
    done.records = space.one("SELECT count(*) FROM staged")
    return [name for name in segments if name not in aside]


def _known(space: Workspace, compacted: str, kind: str) -> list[Doubled]:
    """Records that were compacted before."""
    key = "decision_id" if kind == "decisions" else "payload"
    known = f"is_annotation = {kind == 'feedback'} AND {key} IN (SELECT {key} FROM {compacted})"
    rows = space.connection.execute(f"SELECT file, line, decision_id FROM staged WHERE {known}").fetchall()
    return [Doubled(Place(file, line), decision_id) for file, line, decision_id in rows]


def _write_days(
    space: Workspace,
    own: Part,
    segments: list[str],
    ledger: Ledger,
    done: Compaction,
    progress: Progress,
    now_s: float,
) -> Part:
    """Write the files of every day that got new records, merged with what that day had, and make them count."""
    kept = {(file.day, file.kind): file for file in own.manifest.files}
    days = space.connection.execute(
        f"SELECT DISTINCT {_DAY} AS day, is_annotation FROM staged ORDER BY day, is_annotation"
    ).fetchall()
    for day, is_annotation in days:
        kind: RecordKind = "feedback" if is_annotation else "decisions"
        progress(f"writing the {kind} of {day}")
        file = _write(space, own, day, kind, kept.get((day, kind)))
        kept[day, kind] = file
        done.files.append(file)
    return publish(own, kept.values(), segments=segments, tombstones=ledger.names, now_s=now_s)


def _write(space: Workspace, own: Part, day: str, kind: RecordKind, before: CompactedFile | None) -> CompactedFile:
    columns = ", ".join(BASE_COLUMNS)
    rows = f"SELECT {columns} FROM staged WHERE is_annotation = {kind == 'feedback'} AND {_DAY} = '{day}'"
    if before is not None:
        rows += f" UNION ALL SELECT {columns} FROM {space.sources(own).select(lambda file: file == before)}"
    return space.write(own.store, day, kind, rows)
