"""SQL over a traffic folder: DuckDB on segments and Parquet, locked down.

    with open_log(Path("traffic")) as log:
        for record in log.decisions(where="route = 'teacher' AND usage.prompt_tokens > 100"):   # DecisionRecord
            ...
        columns, rows = log.query("SELECT decision.reason, count(*) FROM records GROUP BY 1")
        log.damage                                  # what was left out, as in policies/traffic/reader.py

Views: `records` (one row a decision record, its fields as columns, `created_at` in UTC, `payload` = its JSON),
`feedback` (every judgement), `judgements` (the newest of each kind, joined by the rules of
policies/quality/judgements.py), `shadows` (what the other model answered).

A statement can read nothing but the log: one SELECT at a time, no files, no network, no extensions, no settings. What
is compacted is read from its files, in a store by ranges; segments are read into DuckDB when the log is opened, which
spills to a temporary folder beyond `memory_limit` (of an encrypted log: encrypted). Compacted files that something was
erased from since they were written are read like segments, without what was erased.
"""

# ruff: noqa: S608 - identifiers and texts are quoted here; what a user types runs in a database without any power

from __future__ import annotations

import fcntl
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.record import AnyRecord, DecisionRecord, FeedbackRecord, ShadowRecord, decode
from policies.traffic.columns import (
    JUDGEMENTS_VIEW,
    annotations_view,
    columns_version,
    literal,
    records_view,
    stored_select,
)
from policies.traffic.compacted import LOCK, CompactedFile
from policies.traffic.files import SCHEME, file_system, url_of
from policies.traffic.folder import LogFolder
from policies.traffic.reader import Damage, Doubled, Reading, Stored, TrafficError
from policies.traffic.sealing import NO_KEY_NAMED, Keyring, SealError
from policies.traffic.stores import Store
from policies.traffic.survey import Part, as_traffic_errors, ledger_of, open_folder, survey

if TYPE_CHECKING:
    import duckdb
    import pyarrow

_BATCH_ROWS = 4096
_BATCH_BYTES = 16 * 2**20
_ROWS_AT_ONCE = 1024


class QueryError(ValueError):
    """A statement is refused or wrong; the message says where."""


class LogDatabase:
    """An opened log. Made by `open_log`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, reading: Reading) -> None:
        self._connection = connection
        self.damage: list[Damage] = reading.damage
        self.doubled: list[Doubled] = reading.doubled

    def query(self, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Names of the columns, and the rows as they are fetched. Raises: QueryError, also while fetching."""
        reader = self.table(sql)
        return reader.schema.names, _rows(reader)

    def table(self, sql: str) -> pyarrow.RecordBatchReader:
        """The rows of a SELECT as Arrow batches, computed as they are read. Raises: QueryError."""
        import duckdb  # noqa: PLC0415 - not installed with the gateway

        cursor = self._connection.cursor()
        try:
            statements = cursor.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise QueryError("give one SELECT; the log is read only")
            reader: pyarrow.RecordBatchReader = cursor.sql(sql).to_arrow_reader(_ROWS_AT_ONCE)
        except (duckdb.Error, RuntimeError) as exc:
            raise QueryError(_first_lines(exc)) from exc
        return reader

    def payloads(self, where: str | None = None) -> Iterator[str]:
        """The JSON of the decision records that a condition holds for, oldest first. Raises: QueryError."""
        reader = self.table(f"SELECT payload FROM records {condition(where)} ORDER BY created_s, decision_id")
        return (row[0] for row in _rows(reader))

    def decisions(self, where: str | None = None) -> Iterator[DecisionRecord]:
        """The decision records that a condition holds for, oldest first. Raises: QueryError."""
        return (decode(payload.encode()) for payload in self.payloads(where))

    def count(self, where: str | None = None) -> int:
        """How many records a condition holds for. Raises: QueryError."""
        _, rows = self.query(f"SELECT count(*) FROM records {condition(where)}")
        return int(next(iter(rows))[0])


def condition(where: str | None) -> str:
    """A WHERE clause from a condition that somebody typed: it cannot end the statement that it is put into."""
    return f"WHERE (\n{where}\n)" if where is not None else ""


@contextmanager
def open_log(folder: Path, *, memory_limit: str = "2GB") -> Iterator[LogDatabase]:
    """Open a traffic folder for SQL.

    Raises:
        TrafficError: the folder cannot be read, or DuckDB is missing.
    """
    with ExitStack() as stack:
        log = open_folder(folder)
        survey(log)
        _hold_files(log, stack)
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="locum-log-"))
        connection = stack.enter_context(connect())
        configure(connection, Path(scratch), memory_limit, sealed=log.storage.encryption_key_env is not None)
        ledger = ledger_of(log)
        reading = Reading(folder, compacted=lambda part: not ledger.names <= set(part.manifest.tombstones))
        stage(connection, reading)
        parts = [part for part in survey(log).parts if ledger.names <= set(part.manifest.tombstones)]
        with as_traffic_errors(folder):
            sources = Sources(connection, parts, log.keyring)
        _add_views(connection, sources)
        sources.lock_down()
        yield LogDatabase(connection, reading)


class Sources:
    """The compacted files of some parts as DuckDB reads them: plain files of this machine by itself, all others through
    the file system of policies/traffic/files.py."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, parts: list[Part], keyring: Keyring | None) -> None:
        """Raises: SealError, StoreError."""
        self._connection = connection
        self._paths = {
            file: self._path(number, part.store, file)
            for number, part in enumerate(parts)
            for file in part.manifest.files
        }
        for file in self._paths:
            if file.sealed and keyring is None:
                raise SealError(NO_KEY_NAMED)
            if file.sealed and keyring is not None:
                keyring.require(bytes.fromhex(file.sealed))
        if any(path.startswith(SCHEME) for path in self._paths.values()):
            sealed = frozenset(file.name for file in self._paths if file.sealed)
            if connection.filesystem_is_registered(SCHEME):
                connection.unregister_filesystem(SCHEME)
            connection.register_filesystem(file_system([part.store for part in parts], keyring, sealed))

    @staticmethod
    def _path(number: int, store: Store, file: CompactedFile) -> str:
        path = store.path(file.name)
        return url_of(number, file.name) if path is None or file.sealed else str(path)

    def select(self, wanted: Callable[[CompactedFile], bool]) -> str | None:
        """What stands behind FROM for some files; None when there is none."""
        paths = [literal(path) for file, path in self._paths.items() if wanted(file)]
        return f"read_parquet([{', '.join(paths)}])" if paths else None

    def lock_down(self) -> None:
        """Nothing else can be read from now on."""
        allowed = ", ".join(map(literal, self._paths.values()))
        self._connection.execute(f"SET allowed_paths = [{allowed}]")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")


def configure(
    connection: duckdb.DuckDBPyConnection,
    scratch: Path,
    memory_limit: str,
    *,
    sealed: bool = False,
    threads: int | None = None,
) -> None:
    """Where DuckDB may spill to, and nothing from the outside. Raises: TrafficError: no such memory limit.

    Args:
        sealed: what is spilled is encrypted, by a key that is in this process only.
        threads: default: one a core.
    """
    import duckdb  # noqa: PLC0415 - not installed with the gateway

    for setting in (
        "SET autoinstall_known_extensions = false",
        "SET autoload_known_extensions = false",
        "SET python_enable_replacements = false",
        "SET enable_progress_bar = false",
        f"SET temp_directory = {literal(str(scratch))}",
        f"SET temp_file_encryption = {str(sealed).lower()}",
        *([f"SET threads = {threads}"] if threads is not None else []),
    ):
        connection.execute(setting)
    try:
        connection.execute(f"SET memory_limit = {literal(memory_limit)}")
    except duckdb.Error as exc:
        raise TrafficError(f"the memory limit {memory_limit[:40]!r} is wrong: {_first_lines(exc)}") from exc


def stage(connection: duckdb.DuckDBPyConnection, reading: Reading) -> None:
    """Read a log into the table `staged`, one row a record: `BASE_COLUMNS` and its place. Raises: TrafficError."""
    connection.execute(
        "CREATE TABLE staged (payload VARCHAR, crc32 UINTEGER, decision_id VARCHAR, created_s DOUBLE, "
        "is_annotation BOOLEAN, file VARCHAR, line BIGINT)"
    )
    waiting: list[tuple[Stored, AnyRecord]] = []
    size = 0
    for stored, record in reading.placed():
        waiting.append((stored, record))
        size += len(stored.payload)
        if len(waiting) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            _insert(connection, waiting)
            waiting, size = [], 0
    _insert(connection, waiting)


def _insert(connection: duckdb.DuckDBPyConnection, rows: list[tuple[Stored, AnyRecord]]) -> None:
    import pyarrow as pa  # noqa: PLC0415 - not installed with the gateway

    batch = pa.table(
        {
            "payload": pa.array([stored.payload.decode() for stored, _ in rows], pa.string()),
            "crc32": pa.array([zlib.crc32(stored.payload) for stored, _ in rows], pa.uint32()),
            "decision_id": pa.array([record.decision_id for _, record in rows], pa.string()),
            "created_s": pa.array([record.created_s for _, record in rows], pa.float64()),
            "is_annotation": pa.array([stored.is_annotation for stored, _ in rows], pa.bool_()),
            "file": pa.array([stored.place.file for stored, _ in rows], pa.string()),
            "line": pa.array([stored.place.line for stored, _ in rows], pa.int64()),
        }
    )
    connection.register("batch", batch)
    connection.execute("INSERT INTO staged SELECT * FROM batch")
    connection.unregister("batch")


def _hold_files(log: LogFolder, stack: ExitStack) -> None:
    """Keep compactions of this machine from removing files for as long as the log is open. What is in a store stays
    for a while after it was superseded (router/log/compaction.py)."""
    for store in (log.local, log.own):
        path = store.path(LOCK)
        if path is not None:
            with suppress(OSError):  # nothing was compacted yet, so there is nothing to remove
                fcntl.flock(stack.enter_context(path.open("rb")), fcntl.LOCK_SH)


def _add_views(connection: duckdb.DuckDBPyConnection, sources: Sources) -> None:
    """Views over the table `staged` and the compacted files."""
    decisions = "(SELECT * FROM staged WHERE NOT is_annotation)"
    connection.execute(f"CREATE TABLE fresh AS {stored_select(decisions)}")
    annotations = "SELECT payload, decision_id, created_s FROM staged WHERE is_annotation"
    stored = ["SELECT * FROM fresh"]
    new = sources.select(lambda file: file.kind == "decisions" and file.columns == columns_version())
    old = sources.select(lambda file: file.kind == "decisions" and file.columns != columns_version())
    annotated = sources.select(lambda file: file.kind == "feedback")
    if new:
        stored.append(f"SELECT * FROM {new}")
    if old:
        stored.append(stored_select(old))
    for source in filter(None, (new, old)):  # a segment that was copied back, say: the compacted one counts
        connection.execute(f"DELETE FROM fresh WHERE decision_id IN (SELECT decision_id FROM {source})")
    if annotated:
        annotations += f" UNION SELECT payload, decision_id, created_s FROM {annotated}"
    connection.execute(f"CREATE VIEW records AS {records_view('(' + ' UNION ALL '.join(stored) + ')')}")
    connection.execute(f"CREATE VIEW feedback AS {annotations_view(FeedbackRecord, '(' + annotations + ')')}")
    connection.execute(f"CREATE VIEW shadows AS {annotations_view(ShadowRecord, '(' + annotations + ')')}")
    connection.execute(f"CREATE VIEW judgements AS {JUDGEMENTS_VIEW}")


def _rows(reader: pyarrow.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    for batch in batches(reader):
        try:
            columns = [column.to_pylist(maps_as_pydicts="lossy") for column in batch.columns]
        except (OverflowError, ValueError) as exc:  # a date of the year 290000, say
            raise QueryError(f"a value cannot be shown: {_first_lines(exc)}; cast it to VARCHAR") from exc
        yield from zip(*columns, strict=True)


def batches(reader: pyarrow.RecordBatchReader) -> Iterator[pyarrow.RecordBatch]:
    """The batches of a result. Raises: QueryError: a row cannot be computed."""
    try:
        yield from reader
    except (OSError, ValueError) as exc:  # what pyarrow makes of DuckDB's errors
        raise QueryError(_first_lines(exc)) from exc


def _first_lines(error: Exception) -> str:
    return "\n".join(line for line in str(error).splitlines() if line.strip())[:1000]


def connect() -> duckdb.DuckDBPyConnection:
    """An empty database. Raises: TrafficError: DuckDB is not installed."""
    try:
        import duckdb  # noqa: PLC0415 - not installed with the gateway
        import pyarrow  # noqa: F401, PLC0415
    except ImportError as exc:
        raise TrafficError(f"SQL over the log needs {exc.name}: pip install 'locum[loop]'") from exc
    return duckdb.connect(":memory:")
