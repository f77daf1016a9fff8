"""The files of a log, and what replay keeps of one: columns, shadows, feedback."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import msgspec

from policies.record import FeedbackRecord, ShadowRecord, decode_any, is_annotation
from policies.replay.columns import Columns
from policies.replay.extract import ColumnsBuilder
from policies.traffic.compacted import CompactedFile
from policies.traffic.files import open_compacted
from policies.traffic.folder import LogFolder
from policies.traffic.reader import parquet_rows
from policies.traffic.sealing import Tampered
from policies.traffic.segments import scan
from policies.traffic.stores import Store
from policies.traffic.survey import ledger_of, survey
from policies.traffic.tombstones import Ledger

PART_ROWS = 65_536
"""Rows of a compacted file that are read at once, about: one process holds no more of them at a time."""
ScoreText = Callable[[str], float]


class LogFile(NamedTuple):
    """A segment, or a part of a compacted file."""

    key: str
    """Changes when its content does."""
    size_bytes: int
    segment: str | None = None
    store: str = ""
    """Label of the store of a compacted file."""
    file: CompactedFile | None = None
    part: int = 0
    parts: int = 1

    @property
    def rows(self) -> int:
        """Decision records in it, as far as known before it is read."""
        return self.file.rows // self.parts if self.file is not None and self.file.kind == "decisions" else 0


class FilePart(NamedTuple):
    """What one file holds."""

    columns: Columns
    shadows: tuple[ShadowRecord, ...] = ()
    feedback: tuple[FeedbackRecord, ...] = ()
    damaged: int = 0


def files_of(log: LogFolder) -> list[LogFile]:
    """Compacted files day by day, then segments. What was erased is part of every key. Raises: TrafficError."""
    seen = survey(log)
    erased = ",".join(sorted(ledger_of(log).names))
    compacted = sorted(
        ((file.day, file.name, part.store.label, file) for part in seen.parts for file in part.manifest.files),
        key=lambda each: each[:2],
    )
    files = []
    for _, _, store, file in compacted:
        parts = -(-file.rows // PART_ROWS) or 1
        for part in range(parts):
            key = f"{file.sha256} {part} {erased}"
            files.append(LogFile(key, file.size_bytes // parts, None, store, file, part, parts))
    for name in seen.segments:
        try:
            size_bytes = (log.path / name).stat().st_size
        except FileNotFoundError:
            continue  # compacted meanwhile; the next reading finds it there
        files.append(LogFile(f"{name} {size_bytes} {erased}", size_bytes, name))
    return files


class FileReader:
    """Reads files of one log."""

    def __init__(self, log: LogFolder, score_text: ScoreText | None = None) -> None:
        """
        Args:
            score_text: see `ColumnsBuilder`.
        """
        self._log = log
        self._score_text = score_text

    @cached_property
    def _ledger(self) -> Ledger:
        return ledger_of(self._log)

    @cached_property
    def _stores(self) -> dict[str, Store]:
        return {store.label: store for store in (self._log.own, *self._log.parts())}

    def read(self, file: LogFile) -> FilePart:
        """Raises: FileNotFoundError, SealError, TrafficError."""
        builder, damaged, ledger = ColumnsBuilder(self._score_text), 0, self._ledger
        shadows: list[ShadowRecord] = []
        feedback: list[FeedbackRecord] = []
        for payload in self._payloads(file):
            try:
                if payload is None:
                    damaged += 1
                elif ledger and ledger.covers(decode_any(payload)):
                    continue
                elif not is_annotation(payload):
                    builder.add(payload)
                else:
                    record = decode_any(payload)
                    if isinstance(record, ShadowRecord):
                        shadows.append(msgspec.structs.replace(record, completion=None))
                    elif isinstance(record, FeedbackRecord) and record.score is not None:
                        feedback.append(msgspec.structs.replace(record, correction=None, label=None))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                damaged += 1
        return FilePart(builder.build(), tuple(shadows), tuple(feedback), damaged)

    def _payloads(self, file: LogFile) -> Iterator[bytes | None]:
        """The JSON of every line; None for a damaged one."""
        if file.segment is not None:
            for line in scan(self._log.path / file.segment, self._log.keyring):
                if line.payload is not None or line.fault != "unfinished":
                    yield line.payload
            return
        assert file.file is not None  # noqa: S101 - it is no segment
        keyring = self._log.keyring if file.file.sealed else None
        try:
            with open_compacted(self._stores[file.store], file.file, keyring) as opened:
                for payload, crc32 in parquet_rows(opened, file.part, file.parts):
                    yield payload if zlib.crc32(payload) == crc32 else None
        except FileNotFoundError:
            raise
        except (
            Tampered,
            ValueError,
            OSError,
            LookupError,
        ):  # as in policies/traffic/reader.py: the rest is not readable
            yield None
