"""What compaction, retention and erasure share: locks, Parquet files that are written whole, manifests, leftovers.

The order of the steps makes a crash harmless wherever it comes: files are written and made durable under names that no
manifest has; then a manifest is published, which is the moment from which they count; only then what they replace is
removed. What an interrupted run left is removed by a later one.
"""

# ruff: noqa: S608 - nothing in these statements comes from a user; names are quoted

from __future__ import annotations

import fcntl
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from policies.durable import UNFINISHED_SUFFIX, sync
from policies.traffic.columns import BASE_COLUMNS, columns_version, literal, stored_select
from policies.traffic.compacted import (
    COMPACTING,
    LOCK,
    CompactedFile,
    RecordKind,
    Superseded,
    TrafficManifest,
)
from policies.traffic.files import create_compacted
from policies.traffic.folder import LogFolder
from policies.traffic.sql import Sources, configure, connect
from policies.traffic.stores import Conflict, FolderStore, Store
from policies.traffic.survey import Part, TrafficError, as_traffic_errors

if TYPE_CHECKING:
    import duckdb

ROW_GROUP_ROWS = 8192
ZSTD_LEVEL = 6
GRACE_S = 3600.0
"""How long a file in a store outlives the manifest that named it: queries that began before may take this long."""
LOCK_WAIT_S = 600.0
"""How long people's commands wait for a compaction under way."""
_POLL_S = 0.1
_NEW = "locumnew"
Progress = Callable[[str], None]


@contextmanager
def sole_writer(log: LogFolder, *, wait_s: float = 0.0, everywhere: bool = False) -> Iterator[None]:
    """One compaction or erasure at a time. Raises: TrafficError, OSError.

    Args:
        wait_s: for another one to end; one that a gateway does by itself gets little of a busy machine's time.
        everywhere: nobody compacts into other instances' folders meanwhile, either. In a store that is no folder the
            manifests see to that.
    """
    stores = log.parts() if everywhere else (log.local, log.own)
    with ExitStack() as stack:
        for root in sorted({log.local.root} | {store.root for store in stores if isinstance(store, FolderStore)}):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            (root / LOCK).touch()
            _lock(stack.enter_context((root / COMPACTING).open("wb")), root, time.monotonic() + wait_s)
        yield


def _lock(file: BinaryIO, root: Path, deadline_s: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            if time.monotonic() >= deadline_s:
                raise TrafficError(f"{root} is being compacted by another process; wait for it to end") from exc
            time.sleep(_POLL_S)
        else:
            return


class Workspace:
    """A DuckDB connection that writes compacted files of a log."""

    def __init__(self, log: LogFolder, connection: duckdb.DuckDBPyConnection) -> None:
        self.log = log
        self.connection = connection
        self._target: BinaryIO | None = None
        self._registered = False

    @classmethod
    @contextmanager
    def opened(cls, log: LogFolder, memory_limit: str, threads: int | None = None) -> Iterator[Workspace]:
        """Raises: TrafficError: DuckDB is missing, or no such memory limit."""
        with tempfile.TemporaryDirectory(prefix="locum-compact-") as scratch, connect() as connection:
            sealed = log.storage.encryption_key_env is not None
            configure(connection, Path(scratch), memory_limit, sealed=sealed, threads=threads)
            yield cls(log, connection)

    def sources(self, part: Part) -> Sources:
        """Raises: TrafficError: a key is missing."""
        with as_traffic_errors(self.log.path):
            return Sources(self.connection, [part], self.log.keyring)

    def one(self, sql: str) -> int:
        row = self.connection.execute(sql).fetchone()
        assert row is not None  # noqa: S101 - an aggregate has one row
        return int(row[0])

    def write(self, store: Store, day: str, kind: RecordKind, rows: str) -> CompactedFile:
        """One file, complete under its name in the store.

        Args:
            rows: a SELECT with `BASE_COLUMNS`.
        Raises:
            OSError: the disk, the store or the memory limit.
        """
        if kind == "decisions":
            rows = stored_select(f"({rows})")
        name = f"{day}-{kind}-{secrets.token_hex(4)}.parquet"
        keyring = self.log.keyring
        with create_compacted(store, name, keyring) as (file, stored):
            count = self._copy(f"({rows} ORDER BY created_s, decision_id)", file, name)
        key_id = keyring.first_id().hex() if keyring is not None else ""
        return CompactedFile(
            name=name, kind=kind, day=day, columns=columns_version() if kind == "decisions" else "", rows=count,
            size_bytes=stored.size_bytes, sha256=stored.sha256, sealed=key_id,
        )  # fmt: skip

    def _copy(self, rows: str, target: BinaryIO, name: str) -> int:
        """How many rows there were. Raises: OSError."""
        import duckdb  # noqa: PLC0415 - not installed with the gateway

        if not self._registered:
            self.connection.register_filesystem(_writing(lambda: self._target))
            self._registered = True
        self._target = target
        options = (
            f"FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {ZSTD_LEVEL}, ROW_GROUP_SIZE {ROW_GROUP_ROWS}, "
            "USE_TMP_FILE false"
        )
        try:
            row = self.connection.execute(f"COPY {rows} TO {literal(f'{_NEW}://{name}')} ({options})").fetchone()
        except duckdb.Error as exc:  # the disk or the memory limit
            raise OSError(f"{name}: {exc}") from exc
        finally:
            self._target = None
        assert row is not None  # noqa: S101 - COPY tells how many rows it wrote
        return int(row[0])

    def take_ids(self, ids: Iterable[str]) -> None:
        """Make them the table `doomed`."""
        import pyarrow as pa  # noqa: PLC0415 - of the [loop] extra

        batch = pa.table({"decision_id": pa.array(list(ids), pa.string())})
        self.connection.register("ids", batch)
        self.connection.execute("CREATE OR REPLACE TABLE doomed AS SELECT * FROM ids")
        self.connection.unregister("ids")

    def rewrite(self, part: Part, file: CompactedFile, condition: str) -> CompactedFile | None:
        """A file without the rows that a condition holds for; itself when there are none, None when none is left."""
        source = self.sources(part).select(lambda each: each == file)
        doomed = self.one(f"SELECT count(*) FROM {source} WHERE {condition}")
        if doomed in (0, file.rows):
            return file if doomed == 0 else None
        kept = f"SELECT {', '.join(BASE_COLUMNS)} FROM {source} WHERE NOT ({condition})"
        return self.write(part.store, file.day, file.kind, kept)


def _writing(target: Callable[[], BinaryIO | None]) -> Any:
    """A file system for DuckDB whose only file is the one that is being written."""
    from fsspec import AbstractFileSystem  # noqa: PLC0415 - of the [loop] extra, as DuckDB is

    class NewFile(AbstractFileSystem):  # type: ignore[misc]
        protocol = _NEW
        cachable = False

        def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
            return target()

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            raise FileNotFoundError(path)

        def exists(self, path: str, **_: Any) -> bool:
            return False

        def glob(self, path: str, **_: Any) -> list[str]:
            return []

    return NewFile()


def publish(
    part: Part,
    files: Iterable[CompactedFile],
    *,
    segments: Iterable[str] = (),
    tombstones: Iterable[str] | None = None,
    now_s: float | None = None,
) -> Part:
    """Make files the ones that count.

    Args:
        segments: whose records are in them.
        tombstones: whose records are in none of them; default: those of the manifest before.
    Raises:
        Conflict: somebody else has published meanwhile; nothing was changed.
        OSError: also when a new file is not in the store as it was written.
    """
    before, store = part.manifest, part.store
    now_s = time.time() if now_s is None else now_s
    ordered = tuple(sorted(files, key=lambda file: (file.day, file.kind)))
    for file in set(ordered) - set(before.files):
        try:
            size_bytes = store.ranged(file.name).size
        except FileNotFoundError as exc:  # somebody who erases has swept it up, and has published
            raise Conflict(store.label) from exc
        if size_bytes != file.size_bytes:
            raise OSError(f"{part.place(file)} has not the size that was written")
    manifest = TrafficManifest(
        version=before.version + 1,
        files=ordered,
        segments=tuple(segments),
        superseded=() if isinstance(store, FolderStore) else _superseded(part, ordered, now_s),
        tombstones=before.tombstones if tombstones is None else tuple(sorted(tombstones)),
    )
    if isinstance(store, FolderStore):
        sync(store.root)
    store.publish(manifest, before)
    return Part(store, manifest)


def _superseded(part: Part, files: tuple[CompactedFile, ...], now_s: float) -> tuple[Superseded, ...]:
    """Every file that is there and does not count, what interrupted runs left included."""
    counted = {file.name for file in files}
    known = {each.name: each.since_s for each in part.manifest.superseded}
    names = [name for name in part.store.names() if name.endswith(".parquet") and name not in counted]
    return tuple(Superseded(name=name, since_s=known.get(name, now_s)) for name in names)


def sweep(log: LogFolder, part: Part, *, now_s: float | None = None, at_once: bool = False) -> list[str]:
    """Remove what does not count: compacted segments, replaced and unfinished files; the names of those that stay.

    Files stay while somebody reads them. `at_once`: in a store, too, nothing is left to readers.
    """
    now_s = time.time() if now_s is None else now_s
    if part.store.label in (log.own.label, log.local.label):
        for name in part.manifest.segments:
            (log.path / name).unlink(missing_ok=True)
        sync(log.path)
    if isinstance(part.store, FolderStore):
        return _sweep_folder(part, part.store)
    left = _superseded(part, part.manifest.files, now_s) if at_once else part.manifest.superseded
    for each in left:
        if at_once or each.since_s <= now_s - GRACE_S:
            part.store.remove(each.name)
    return [] if at_once else [each.name for each in left if each.since_s > now_s - GRACE_S]


def _sweep_folder(part: Part, store: FolderStore) -> list[str]:
    counted = {file.name for file in part.manifest.files}
    left = [
        name for name in store.names() if name.endswith((".parquet", ".tmp", UNFINISHED_SUFFIX)) and name not in counted
    ]
    if not left:
        return []
    with (store.root / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return left  # a later run removes them
        for name in left:
            store.remove(name)
    return []
