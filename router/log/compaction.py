"""Compaction: segments that nobody writes any more become Parquet files, one for each day and kind, sorted by time.

The order of the steps makes a crash harmless wherever it comes: the files are written under temporary names, fsynced
and renamed; then the manifest is replaced, which is the moment from which they count and the segments do not; only
then are the segments and the files that were merged removed. What an interrupted run left is removed by the next one.

A segment with a damaged line, or with an id that is there already, stays as it is: that is for a person to look at.
"""

# ruff: noqa: S608 - nothing in these statements comes from a user; names are quoted

from __future__ import annotations

import fcntl
import hashlib
import os
import resource
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from policies.compacted import (
    FOLDER,
    LOCK,
    CompactedFile,
    RecordKind,
    TrafficManifest,
    fsync_folder,
    write_manifest,
)
from policies.traffic import Damage, Doubled, Place, Reading, TrafficError, snapshot
from policies.traffic_columns import BASE_COLUMNS, columns_version, literal, stored_select, timestamp
from policies.traffic_sql import configure, connect, parquet_source, stage

if TYPE_CHECKING:
    import duckdb

ROW_GROUP_ROWS = 8192
ZSTD_LEVEL = 6
SPARE_FILES = 128
"""What DuckDB, its spilled data and the rest of the process may have open beside the segments."""
_DAY = f"strftime({timestamp('created_s')}, '%Y-%m-%d')"


@dataclass
class Compaction:
    """What a run did."""

    records: int = 0
    """Records that are in Parquet now and were not before."""
    segments: int = 0
    """Segments that were removed for it."""
    segment_bytes: int = 0
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


def compact(folder: Path, *, progress: Callable[[str], None], memory_limit: str = "2GB") -> Compaction:
    """Compact a traffic folder. Gateways may write and others may read meanwhile.

    Raises:
        TrafficError: the folder cannot be read, or another compaction is under way.
        OSError: the disk is full, say; the log is as it was.
    """
    done = Compaction()
    _, names = snapshot(folder)
    with ExitStack() as stack:
        stack.enter_context(_sole_compaction(folder))
        manifest, names = snapshot(folder)  # again: another compaction may have ended just now
        _remove_leftovers(folder, manifest)
        most = _most_open_files(len(names))
        if len(names) > most:
            progress(f"taking {most} of {len(names)} segments: more files may not be open (ulimit -n); run it again")
        segments = _locked(folder, names[:most], stack, done)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="locum-compact-")))
        connection = stack.enter_context(connect())
        configure(connection, scratch, memory_limit)
        progress(f"reading {len(segments)} segments")
        segments = _staged(connection, folder, segments, manifest, done)
        if segments:
            _write_days(connection, folder, manifest, segments, done, progress)
            done.segments = len(segments)
            done.segment_bytes = sum((folder / name).stat().st_size for name in segments)
            _remove_leftovers(folder, snapshot(folder)[0])
    return done


@contextmanager
def _sole_compaction(folder: Path) -> Iterator[None]:
    """One compaction at a time. Raises: TrafficError, OSError."""
    (folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
    (folder / FOLDER / LOCK).touch()
    with (folder / FOLDER / "compacting").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise TrafficError(f"{folder} is being compacted by another process; wait for it to end") from exc
        yield


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


def _staged(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    segments: list[str],
    manifest: TrafficManifest,
    done: Compaction,
) -> list[str]:
    """Read the segments into the table `staged`; the names of those that are sound and hold nothing known."""
    reading = Reading(folder, segments=tuple(segments))
    stage(connection, reading)
    done.damage, done.doubled = reading.damage, reading.doubled
    for kind in ("decisions", "feedback"):
        known = [folder / FOLDER / file.name for file in manifest.files if file.kind == kind]
        if known:
            done.doubled += _known(connection, parquet_source(known), kind)
    aside = done.left_alone
    connection.execute("DELETE FROM staged WHERE list_contains(?, file)", [aside])
    done.records = _one(connection, "SELECT count(*) FROM staged")
    return [name for name in segments if name not in aside]


def _known(connection: duckdb.DuckDBPyConnection, compacted: str, kind: str) -> list[Doubled]:
    """Records that were compacted before."""
    key = "decision_id" if kind == "decisions" else "payload"
    known = f"is_annotation = {kind == 'feedback'} AND {key} IN (SELECT {key} FROM {compacted})"
    rows = connection.execute(f"SELECT file, line, decision_id FROM staged WHERE {known}").fetchall()
    return [Doubled(Place(file, line), decision_id) for file, line, decision_id in rows]


def _write_days(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    manifest: TrafficManifest,
    segments: list[str],
    done: Compaction,
    progress: Callable[[str], None],
) -> None:
    """Write the files of every day that got new records, merged with what that day had, and make them count."""
    kept = {(file.day, file.kind): file for file in manifest.files}
    days = connection.execute(
        f"SELECT DISTINCT {_DAY} AS day, is_annotation FROM staged ORDER BY day, is_annotation"
    ).fetchall()
    for day, is_annotation in days:
        kind: RecordKind = "feedback" if is_annotation else "decisions"
        progress(f"writing the {kind} of {day}")
        file = _write(connection, folder, day, kind, kept.get((day, kind)))
        kept[day, kind] = file
        done.files.append(file)
    fsync_folder(folder / FOLDER)
    files = sorted(kept.values(), key=lambda file: (file.day, file.kind))
    write_manifest(folder, TrafficManifest(files=tuple(files), segments=tuple(segments)))


def _write(
    connection: duckdb.DuckDBPyConnection, folder: Path, day: str, kind: RecordKind, before: CompactedFile | None
) -> CompactedFile:
    """One file, complete on the disk under its final name. Raises: OSError."""
    rows = (
        f"SELECT {', '.join(BASE_COLUMNS)} FROM staged WHERE is_annotation = {kind == 'feedback'} AND {_DAY} = '{day}'"
    )
    if before is not None:
        rows += f" UNION ALL SELECT {', '.join(BASE_COLUMNS)} FROM {parquet_source([folder / FOLDER / before.name])}"
    if kind == "decisions":
        rows = stored_select(f"({rows})")
    name = f"{day}-{kind}-{secrets.token_hex(4)}.parquet"
    temporary = folder / FOLDER / f"{name}.tmp"
    try:
        _copy(connection, f"({rows} ORDER BY created_s, decision_id)", temporary)
        count = _one(connection, f"SELECT count(*) FROM {parquet_source([temporary])}")
        with temporary.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(temporary.with_suffix(""))
    return CompactedFile(
        name=name,
        kind=kind,
        day=day,
        columns=columns_version() if kind == "decisions" else "",
        rows=count,
        size_bytes=(folder / FOLDER / name).stat().st_size,
        sha256=sha256,
    )


def _copy(connection: duckdb.DuckDBPyConnection, rows: str, target: Path) -> None:
    """Write a Parquet file that only its owner may read, like the segments. Raises: OSError."""
    import duckdb  # noqa: PLC0415 - not installed with the gateway

    target.touch(mode=0o600)
    options = f"FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {ZSTD_LEVEL}, ROW_GROUP_SIZE {ROW_GROUP_ROWS}"
    try:
        connection.execute(f"COPY {rows} TO {literal(str(target.absolute()))} ({options})")
    except duckdb.Error as exc:  # the disk or the memory limit
        raise OSError(f"{target.name}: {exc}") from exc
    target.chmod(0o600)


def _remove_leftovers(folder: Path, manifest: TrafficManifest) -> None:
    """Remove what does not count: compacted segments, merged and unfinished files. Files stay while somebody reads."""
    for name in manifest.segments:
        (folder / name).unlink(missing_ok=True)
    fsync_folder(folder)
    counted = {file.name for file in manifest.files}
    with (folder / FOLDER / LOCK).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # the next run removes them
        for path in (folder / FOLDER).iterdir():
            if path.suffix in (".parquet", ".tmp") and path.name not in counted:
                path.unlink()


def _one(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = connection.execute(sql).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has one row
    return int(row[0])
