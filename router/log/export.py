"""`locum log export`: decision records into one file, complete or not there at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from policies.durable import sync
from policies.traffic.sql import LogDatabase, batches, condition

FORMATS = (".jsonl", ".parquet")


class ExportError(ValueError):
    """The target cannot be used; the message says why."""


def export(log: LogDatabase, target: Path, where: str | None, advance: Callable[[int], None]) -> int:
    """Write the records that a condition holds for, oldest first; how many there were.

    `.jsonl`: the JSON of each record as the gateway wrote it, one a line. `.parquet`: one column a field.

    Raises:
        ExportError, QueryError, OSError: nothing was written, a file that was there before stays.
    """
    check_target(target)
    with _replaced(target) as file:
        return (_write_parquet if target.suffix == ".parquet" else _write_lines)(log, file, where, advance)


def check_target(target: Path) -> None:
    """Raises: ExportError."""
    if target.suffix not in FORMATS:
        raise ExportError(f"--out {target}: the name must end in .jsonl or .parquet")
    if target.is_dir():
        raise ExportError(f"--out {target}: is a folder; give a file")
    if not target.absolute().parent.is_dir():
        raise ExportError(f"--out {target}: the folder {target.absolute().parent} does not exist")


def _write_lines(log: LogDatabase, file: BinaryIO, where: str | None, advance: Callable[[int], None]) -> int:
    written = 0
    for payload in log.payloads(where):
        file.write(payload.encode())
        file.write(b"\n")
        written += 1
        advance(1)
    return written


def _write_parquet(log: LogDatabase, file: BinaryIO, where: str | None, advance: Callable[[int], None]) -> int:
    import pyarrow.parquet  # noqa: PLC0415 - heavy

    reader = log.table(f"SELECT * EXCLUDE (payload) FROM records {condition(where)} ORDER BY created_s, decision_id")  # noqa: S608 - runs in a database without any power
    written = 0
    with pyarrow.parquet.ParquetWriter(file, reader.schema, compression="zstd") as writer:
        for batch in batches(reader):
            writer.write_batch(batch)
            written += batch.num_rows
            advance(batch.num_rows)
    return written


@contextmanager
def _replaced(target: Path) -> Iterator[BinaryIO]:
    """A file that takes the target's name when it is complete. It holds what users wrote: only its owner reads it."""
    temporary = target.absolute().parent / f".{target.name}.{secrets.token_hex(4)}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync(temporary.parent)
    finally:
        temporary.unlink(missing_ok=True)
