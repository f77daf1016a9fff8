"""What a run reads, written down before it reads it: the files of the traffic log and the evaluation set's hash.

A gateway goes on writing its log while a run is under way, and compaction removes segments. So a run does not read
the log but `<run>/snapshot/`: hard links to the files that no longer change (copies on another file system) and copies
of the segments that are being written, as long as they were at that moment. Any later part of the same run, after a
crash too, sees the same records.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from policies.durable import sha256_of, sync, write_atomically
from policies.traffic import compacted, reader
from policies.traffic.folder import TOMBSTONES, LogFolder, describe
from policies.traffic.stores import FolderStore
from policies.traffic.survey import Part, Survey, open_folder, survey
from trainer.recipe import Recipe
from trainer.stage import Json, StageError

FOLDER = "snapshot"
LISTING = "listing.json"
MAX_ROUNDS = 10
"""Compactions that may remove a file while the snapshot is taken."""
_FETCHED_BYTES = 8 * 2**20


class LoggedFile(msgspec.Struct, frozen=True):
    name: str
    """Relative to the log's folder; unique for its content up to `bytes`."""
    bytes: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """`listing.json`."""

    log_dir: str
    taken_s: float
    """Unix time."""
    evaluation_sha256: str
    files: tuple[LoggedFile, ...]

    @property
    def digest(self) -> str:
        """Changes with the data."""
        parts = [[each.name, each.bytes] for each in self.files]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def check_evaluation_set(recipe: Recipe) -> None:
    """Nothing is exported before it is certain what the result will be judged by. Raises: StageError."""
    path, wanted = Path(recipe.evaluate.dataset), recipe.evaluate.sha256
    try:
        found = sha256_of(path)
    except OSError as exc:
        raise StageError(f"evaluate.dataset: {path} cannot be read: {exc.strerror}") from exc
    if found != wanted:
        raise StageError(
            f"evaluate.sha256: {path} has the hash {found}, the recipe says {wanted}; restore the file, or write the "
            "new hash into the recipe and run with --from export"
        )


def read(folder: Path) -> Snapshot | None:
    """The snapshot of a run's folder; None when none is complete. Raises: StageError."""
    path = folder / FOLDER / LISTING
    try:
        return msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise StageError(f"{path} is damaged ({exc}); run with --from export") from exc


def pin(recipe: Recipe, folder: Path, *, renew: bool, now: Callable[[], float] = time.time) -> Snapshot:
    """Take the snapshot of a run, or check the one that is there.

    Raises:
        StageError: no log, an evaluation set with another hash, or one that was changed since the data was pinned.
    """
    check_evaluation_set(recipe)
    known = None if renew else read(folder)
    _remove(folder / f"{FOLDER}.partial")  # what a killed run left
    if known is not None:
        if known.evaluation_sha256 != recipe.evaluate.sha256:
            raise StageError(
                "evaluate.sha256: changed since the data was exported; run with --from export, so that the evaluation "
                "set is pinned before anything is exported"
            )
        if known.log_dir == recipe.export.log_dir:
            return known
    try:
        return _take(recipe, folder, now)
    except reader.TrafficError as exc:
        raise StageError(f"export.log_dir: {exc}") from exc


def key(snapshot: Snapshot | None) -> Json:
    """What of it a stage's output depends on."""
    return None if snapshot is None else [snapshot.digest, snapshot.evaluation_sha256]


def _take(recipe: Recipe, folder: Path, now: Callable[[], float]) -> Snapshot:
    source, target, partial = Path(recipe.export.log_dir), folder / FOLDER, folder / f"{FOLDER}.partial"
    for _ in range(MAX_ROUNDS):
        _remove(partial)
        (partial / compacted.FOLDER).mkdir(parents=True)
        log = open_folder(source)
        seen = survey(log)
        try:
            files = (
                *(_compacted(part, file, partial) for part in seen.parts for file in part.manifest.files),
                *(_copy(source / name, partial, name) for name in seen.segments),
            )
        except FileNotFoundError:
            continue  # compacted meanwhile
        break
    else:
        raise StageError(f"export.log_dir: {source} changes faster than it can be read, or a compacted file is gone")
    if not files:
        raise StageError(f"export.log_dir: {source} has no records; send traffic through the gateway first")
    _describe(log, seen, partial)
    taken = Snapshot(
        log_dir=recipe.export.log_dir, taken_s=now(), evaluation_sha256=recipe.evaluate.sha256, files=files
    )
    write_atomically(partial / LISTING, msgspec.json.format(msgspec.json.encode(taken), indent=1))
    _remove(target)
    partial.rename(target)
    sync(folder)
    return taken


def _describe(log: LogFolder, seen: Survey, target: Path) -> None:
    """Make the copies a log: what counts, the names of its keys, and what was erased up to now."""
    storage = msgspec.structs.replace(log.storage, store="", store_options={}, store_secret_env={}, instance="")
    describe(target, storage)
    for ledger in log.ledgers():
        for name in ledger.names():
            FolderStore(target / TOMBSTONES, TOMBSTONES).put(name, ledger.get(name))
    cleaned = [set(part.manifest.tombstones) for part in seen.parts if part.manifest.files]
    clean = set.intersection(*cleaned) if cleaned else set()
    files = sorted(
        (file for part in seen.parts for file in part.manifest.files), key=lambda file: (file.day, file.kind, file.name)
    )
    manifest = compacted.TrafficManifest(version=1, files=tuple(files), tombstones=tuple(sorted(clean)))
    compacted.write_manifest(target / compacted.FOLDER, manifest)


def _compacted(part: Part, file: compacted.CompactedFile, target: Path) -> LoggedFile:
    """Link a compacted file, or fetch it from its store; encrypted ones stay encrypted."""
    name = f"{compacted.FOLDER}/{file.name}"
    path = part.store.path(file.name)
    if path is not None:
        return _copy(path, target, name)
    ranged = part.store.ranged(file.name)
    with (target / name).open("wb") as copy:
        for start in range(0, ranged.size, _FETCHED_BYTES):
            copy.write(ranged.read_at(start, min(start + _FETCHED_BYTES, ranged.size)))
        copy.flush()
        os.fsync(copy.fileno())
    return LoggedFile(name, ranged.size)


def _copy(source: Path, target: Path, name: str) -> LoggedFile:
    """Link a file that will not change any more, copy one that a gateway is writing."""
    with source.open("rb") as file:
        being_written = False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            being_written = True
        size = os.fstat(file.fileno()).st_size
        if not being_written:
            with contextlib.suppress(OSError):  # another file system, or one without hard links
                os.link(source, target / name)
                return LoggedFile(name, size)
        with (target / name).open("wb") as copy:
            _copy_bytes(file, copy, size)
            copy.flush()
            os.fsync(copy.fileno())
    return LoggedFile(name, size)


def _copy_bytes(source: BinaryIO, target: BinaryIO, size: int) -> None:
    left = size
    while left and (block := source.read(min(1 << 20, left))):
        target.write(block)
        left -= len(block)


def _remove(path: Path) -> None:
    if path.exists():
        (path / LISTING).unlink(missing_ok=True)
        shutil.rmtree(path)
