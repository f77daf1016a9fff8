"""SQL over a traffic folder: DuckDB on segments and Parquet, locked down.

    with open_log(Path("traffic")) as log:
        for record in log.decisions(where="route = 'teacher' AND usage.prompt_tokens > 100"):   # DecisionRecord
            ...
        columns, rows = log.query("SELECT decision.reason, count(*) FROM records GROUP BY 1")
        log.damage                                  # what was left out, as in policies/traffic.py

Views: `records` (one row a decision record, its fields as columns, `created_at` in UTC, `payload` = its JSON),
`feedback` (every judgement), `judgements` (the newest of each kind, joined by the rules of policies/judgements.py),
`shadows` (what the other model answered).

A statement can read nothing but the log: one SELECT at a time, no files, no network, no extensions, no settings. What
is compacted is read from its files; segments are read into DuckDB when the log is opened, which spills to a temporary
folder beyond `memory_limit`.
"""

# ruff: noqa: S608 - identifiers and texts are quoted here; what a user types runs in a database without any power

from __future__ import annotations

import fcntl
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.compacted import FOLDER, LOCK, TrafficManifest
from policies.record import AnyRecord, DecisionRecord, FeedbackRecord, ShadowRecord, decode
from policies.traffic import Damage, Doubled, Reading, Stored, TrafficError, snapshot
from policies.traffic_columns import (
    JUDGEMENTS_VIEW,
    annotations_view,
    columns_version,
    literal,
    records_view,
    stored_select,
)

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
        snapshot(folder)
        _hold_files(folder, stack)
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="locum-log-"))
        connection = stack.enter_context(connect())
        configure(connection, Path(scratch), memory_limit)
        reading = Reading(folder, with_compacted=False)
        stage(connection, reading)
        manifest, _ = snapshot(folder)
        _add_views(connection, folder, manifest)
        _lock_down(connection, folder, manifest)
        yield LogDatabase(connection, reading)


def configure(connection: duckdb.DuckDBPyConnection, scratch: Path, memory_limit: str) -> None:
    """Where DuckDB may spill to, and nothing from the outside. Raises: TrafficError: no such memory limit."""
    import duckdb  # noqa: PLC0415 - not installed with the gateway

    for setting in (
        "SET autoinstall_known_extensions = false",
        "SET autoload_known_extensions = false",
        "SET python_enable_replacements = false",
        "SET enable_progress_bar = false",
        f"SET temp_directory = {literal(str(scratch))}",
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


def _hold_files(folder: Path, stack: ExitStack) -> None:
    """Keep compactions from removing files for as long as the log is open."""
    try:
        file = stack.enter_context((folder / FOLDER / LOCK).open("rb"))
    except OSError:
        return  # nothing was compacted yet, so there is nothing to remove
    fcntl.flock(file, fcntl.LOCK_SH)


def _add_views(connection: duckdb.DuckDBPyConnection, folder: Path, manifest: TrafficManifest) -> None:
    """Views over the table `staged` and the compacted files."""
    decisions = "(SELECT * FROM staged WHERE NOT is_annotation)"
    connection.execute(f"CREATE TABLE fresh AS {stored_select(decisions)}")
    annotations = "SELECT payload, decision_id, created_s FROM staged WHERE is_annotation"
    stored = ["SELECT * FROM fresh"]
    files = {
        "new": [f for f in manifest.files if f.kind == "decisions" and f.columns == columns_version()],
        "old": [f for f in manifest.files if f.kind == "decisions" and f.columns != columns_version()],
        "annotations": [f for f in manifest.files if f.kind == "feedback"],
    }
    sources = {
        name: parquet_source([folder / FOLDER / file.name for file in chosen])
        for name, chosen in files.items() if chosen
    }  # fmt: skip
    if "new" in sources:
        stored.append(f"SELECT * FROM {sources['new']}")
    if "old" in sources:
        stored.append(stored_select(sources["old"]))
    for name in set(sources) & {"new", "old"}:  # a segment that was copied back, say: the compacted one counts
        connection.execute(f"DELETE FROM fresh WHERE decision_id IN (SELECT decision_id FROM {sources[name]})")
    if "annotations" in sources:
        annotations += f" UNION SELECT payload, decision_id, created_s FROM {sources['annotations']}"
    connection.execute(f"CREATE VIEW records AS {records_view('(' + ' UNION ALL '.join(stored) + ')')}")
    connection.execute(f"CREATE VIEW feedback AS {annotations_view(FeedbackRecord, '(' + annotations + ')')}")
    connection.execute(f"CREATE VIEW shadows AS {annotations_view(ShadowRecord, '(' + annotations + ')')}")
    connection.execute(f"CREATE VIEW judgements AS {JUDGEMENTS_VIEW}")


def parquet_source(paths: list[Path]) -> str:
    """What stands behind FROM for some files."""
    return f"read_parquet([{', '.join(literal(str(path.absolute())) for path in paths)}])"


def _lock_down(connection: duckdb.DuckDBPyConnection, folder: Path, manifest: TrafficManifest) -> None:
    paths = [literal(str((folder / FOLDER / file.name).absolute())) for file in manifest.files]
    connection.execute(f"SET allowed_paths = [{', '.join(paths)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


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
