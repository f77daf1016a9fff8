"""Reading and writing the tables between stages in batches, so that 100,000 rows never are in memory at once.

A filtering stage reads `examples.parquet`, writes the rows that it keeps to its own `examples.parquet`, and one line
with the cause for every other row to `dropped.parquet`. Its summary has `rows_in`, `rows_out` and `dropped` (cause ->
count): what the funnel is made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from trainer.rows import example_schema
from trainer.stage import Json, StageError, Summary

if TYPE_CHECKING:
    import pyarrow

EXAMPLES = "examples.parquet"
DROPPED = "dropped.parquet"
BATCH_ROWS = 512
"""Rows that are in memory at once."""
BATCH_CHARS = 16_000_000
"""... and less when they are long."""
DETAIL_CHARS = 200


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `trainer.rows.example_schema`."""

    decision_id: str
    created_s: float
    tenant: str
    session: str | None = None
    tags: str = "{}"
    route: str
    teacher: str
    fingerprint: str | None = None
    distillation: str
    messages: str
    completion: str
    finish_reason: str | None = None
    correction: str | None = None
    label: str | None = None
    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    score: float | None = None

    @property
    def answer(self) -> str:
        """What is learned from it: the correction where there is one."""
        return self.completion if self.correction is None else self.correction


def read_examples(path: Path) -> Iterator[Example]:
    """The rows of a table of examples, in order. Raises: StageError: it is no such table."""
    import pyarrow as pa  # noqa: PLC0415 - heavy
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    yield Example(**row)
    except (pa.ArrowInvalid, TypeError) as exc:
        raise StageError(f"{path} cannot be read: {exc}") from exc


def count_rows(path: Path) -> int:
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

    with pq.ParquetFile(path) as file:
        rows: int = file.metadata.num_rows
        return rows


class TableWriter(AbstractContextManager["TableWriter"]):
    """Writes rows in batches; zstd. Nothing is complete before the context ends."""

    def __init__(self, path: Path, schema: pyarrow.Schema) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._chars = 0
        self.count = 0

    def add(self, row: dict[str, Any], chars: int = 0) -> None:
        self._rows.append(row)
        self._chars += chars
        self.count += 1
        if len(self._rows) >= BATCH_ROWS or self._chars >= BATCH_CHARS:
            self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa  # noqa: PLC0415 - heavy

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []
        self._chars = 0


class ExampleWriter(TableWriter):
    def __init__(self, path: Path) -> None:
        super().__init__(path, example_schema())

    def keep(self, example: Example) -> None:
        self.add(msgspec.structs.asdict(example), len(example.messages) + len(example.completion))


class Filter(AbstractContextManager["Filter"]):
    """The two tables that a filtering stage writes, and the counts for its summary."""

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa  # noqa: PLC0415 - heavy

        self._kept = ExampleWriter(folder / EXAMPLES)
        text = pa.string()
        schema = pa.schema([("decision_id", text), ("cause", text), ("detail", text)])
        self._dropped = TableWriter(folder / DROPPED, schema)
        self.causes: Counter[str] = Counter()

    def keep(self, example: Example) -> None:
        self._kept.keep(example)

    def drop(self, decision_id: str, cause: str, detail: str = "") -> None:
        """`detail` never holds text of the request or the answer."""
        self.causes[cause] += 1
        self._dropped.add({"decision_id": decision_id, "cause": cause, "detail": detail[:DETAIL_CHARS]})

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept.__exit__(kind, value, trace)
        self._dropped.__exit__(kind, value, trace)

    @property
    def rows_out(self) -> int:
        return self._kept.count

    def summary(self, fixes: Mapping[str, str], **more: Json) -> Summary:
        """The stage's summary, once the tables are closed.

        Args:
            fixes: cause -> what to change so that it drops less; for the message when nothing is left.
            more: further entries of the summary.
        Raises:
            StageError: nothing is left.
        """
        dropped: dict[str, Json] = dict(sorted(self.causes.items()))
        rows_in = self.rows_out + sum(self.causes.values())
        if self.rows_out == 0:
            raise StageError(nothing_left(rows_in, self.causes, fixes))
        return {"rows_in": rows_in, "rows_out": self.rows_out, "dropped": dropped, **more}


def nothing_left(rows_in: int, causes: Mapping[str, int], fixes: Mapping[str, str]) -> str:
    """The message of a stage that has dropped everything."""
    if rows_in == 0:
        return "no row came in"
    lines = [f"nothing is left of {rows_in} rows:"]
    for cause, count in sorted(causes.items(), key=lambda item: -item[1]):
        fix = fixes.get(cause)
        lines.append(f"  {count} dropped as {cause}{f' ({fix})' if fix else ''}")
    return "\n".join(lines)
