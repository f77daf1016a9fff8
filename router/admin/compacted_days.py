"""The compacted days of a traffic log, read from the newest record backwards, a row group at a time."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from policies.traffic.compacted import CompactedFile, RecordKind
from policies.traffic.files import open_compacted
from policies.traffic.reader import TrafficError
from policies.traffic.sealing import Keyring
from policies.traffic.survey import Part

if TYPE_CHECKING:
    import pyarrow.parquet


class ExtraMissing(TrafficError):
    """Compacted days are there, and nothing to read them with."""


BATCH_ROWS = 256
BATCH_BYTES = 32 * 2**20
"""Of texts that are held at once; a row group beyond it is read a second time, a part at a time."""


def newest_first(
    parts: list[Part], keyring: Keyring | None, before_s: float, *, holding: bytes = b""
) -> Iterator[tuple[float, bytes]]:
    """(created_s, payload) of every decision that was made before a time, of all parts together.

    Args:
        holding: an id; only its record is wanted.
    Raises:
        ExtraMissing.
        FileNotFoundError: a compaction replaced a file; start again with what it left.
    """
    for _, files in groupby(_files(parts, "decisions", to_day=_day(before_s)), key=lambda each: each[1].day):
        backwards = [_file_backwards(part, file, keyring, before_s, holding) for part, file in files]
        yield from heapq.merge(*backwards, key=lambda each: -each[0])


def annotations_of(parts: list[Part], keyring: Keyring | None, decision_id: str, since_s: float) -> Iterator[bytes]:
    """What was learned about one decision. Raises: ExtraMissing, FileNotFoundError."""
    for part, file in _files(parts, "feedback", from_day=_day(since_s)):
        with _opened(part, file, keyring) as parquet:
            for group in range(parquet.num_row_groups):
                ids = parquet.read_row_group(group, columns=["decision_id"]).column("decision_id").to_pylist()
                rows = [at for at, each in enumerate(ids) if each == decision_id]
                for _, payload in _payloads_backwards(parquet, group, rows):
                    yield payload


def _file_backwards(
    part: Part, file: CompactedFile, keyring: Keyring | None, before_s: float, holding: bytes
) -> Iterator[tuple[float, bytes]]:
    with _opened(part, file, keyring) as parquet:
        created = parquet.schema_arrow.get_field_index("created_s")
        for group in reversed(range(parquet.num_row_groups)):
            statistics = parquet.metadata.row_group(group).column(created).statistics
            if statistics is not None and statistics.has_min_max and statistics.min > before_s:
                continue
            keys = parquet.read_row_group(group, columns=["created_s", "decision_id"])
            times, ids = keys.column("created_s").to_pylist(), keys.column("decision_id").to_pylist()
            rows = [at for at, time_s in enumerate(times) if time_s <= before_s]
            if holding:
                rows = [at for at in rows if ids[at] == holding.decode()]
            for at, payload in _payloads_backwards(parquet, group, rows):
                yield times[at], payload


def _payloads_backwards(
    parquet: pyarrow.parquet.ParquetFile, group: int, rows: list[int]
) -> Iterator[tuple[int, bytes]]:
    """Some rows of a row group, the last one first. Texts can be long: batches are read forwards, and kept only as far
    as `BATCH_BYTES` allows; what did not fit is read again."""
    wanted = rows
    while wanted:
        kept: list[tuple[int, bytes]] = []
        size, start = 0, 0
        left = set(wanted)
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=["payload"]):
            for at in range(start, start + batch.num_rows):
                if at in left:
                    payload = batch.column(0)[at - start].as_py().encode()
                    kept.append((at, payload))
                    size += len(payload)
            while size > BATCH_BYTES and len(kept) > 1:
                size -= len(kept.pop(0)[1])
            start += batch.num_rows
        if not kept:
            return
        yield from reversed(kept)
        wanted = [at for at in wanted if at < kept[0][0]]


def _files(
    parts: list[Part], kind: RecordKind, *, from_day: str = "", to_day: str = "9999"
) -> list[tuple[Part, CompactedFile]]:
    """The files of the days in question, the newest day first."""
    chosen = [
        (part, file)
        for part in parts
        for file in part.manifest.files
        if file.kind == kind and from_day <= file.day <= to_day
    ]
    return sorted(chosen, key=lambda each: each[1].day, reverse=True)


@contextmanager
def _opened(part: Part, file: CompactedFile, keyring: Keyring | None) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Raises: ExtraMissing, FileNotFoundError."""
    parquet = _parquet()
    with open_compacted(part.store, file, keyring if file.sealed else None) as opened:
        yield parquet(opened)


def _parquet() -> Any:
    try:
        import pyarrow.parquet  # noqa: PLC0415 - heavy, and not installed with the gateway
    except ImportError as exc:
        raise ExtraMissing("compacted days need pyarrow: pip install 'locum[loop]'") from exc
    return pyarrow.parquet.ParquetFile


def _day(time_s: float) -> str:
    """UTC, `YYYY-MM-DD`; a time beyond all calendars lies behind every day."""
    return time.strftime("%Y-%m-%d", time.gmtime(time_s)) if time_s < 253402300799 else "9999"
