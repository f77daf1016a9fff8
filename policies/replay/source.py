"""Reads a log into columns, file by file, and keeps the columns of files that do not change.

Compacted files are known by their hash, segments by name and size: only what is new is read again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from policies.compacted import CompactedFile
from policies.log_files import open_compacted
from policies.log_folder import LogFolder
from policies.record import FeedbackRecord, ShadowRecord, decode_any, is_annotation
from policies.replay.columns import Columns, joined
from policies.replay.extract import ColumnsBuilder, Vocabulary
from policies.sealing import SealError, Tampered
from policies.segments import scan
from policies.survey import Part, TrafficError, ledger_of, open_folder, survey
from policies.tombstones import Ledger
from policies.traffic import parquet_rows

TRIES = 5
"""Compactions that may move files away under one reading."""
Progress = Callable[[int], None]
"""Told how many records have been read so far."""


@dataclass
class Log:
    """A log as replay needs it."""

    columns: Columns
    shadows: list[ShadowRecord] = field(default_factory=list)
    feedback: list[FeedbackRecord] = field(default_factory=list)
    damaged: int = 0
    """Lines that are no records."""
    left_out: int = 0
    """Older records that were not read, because there may be no more than `max_records`."""


class _FilePart(NamedTuple):
    """What one file holds."""

    columns: Columns
    shadows: tuple[ShadowRecord, ...]
    feedback: tuple[FeedbackRecord, ...]
    damaged: int


class _File(NamedTuple):
    key: str
    """Changes when its content does."""
    segment: str | None
    part: Part | None = None
    file: CompactedFile | None = None

    @property
    def rows(self) -> int:
        """Decision records in it, as far as known before it is read."""
        return self.file.rows if self.file is not None and self.file.kind == "decisions" else 0


class LogReader:
    """Reads one folder again and again."""

    def __init__(
        self,
        folder: Path,
        *,
        score_text: Callable[[str], float] | None = None,
        max_records: int | None = None,
        progress: Progress = lambda count: None,
    ) -> None:
        """
        Args:
            score_text: see `ColumnsBuilder`.
            max_records: of the newest; whole files are left out. None: all.
        """
        self._folder = folder
        self._score_text = score_text
        self._max_records = max_records
        self._progress = progress
        self._vocabulary = Vocabulary()
        self._parts: dict[str, _FilePart] = {}
        self._last: tuple[tuple[str, ...], Log] | None = None

    def read(self) -> Log:
        """The log as it is now; the same object as long as nothing has changed. Raises: TrafficError."""
        for _ in range(TRIES):
            log = open_folder(self._folder)
            files, left_out = self._newest(_files_of(log))
            keys = tuple(each.key for each in files)
            if self._last is not None and self._last[0] == keys:
                return self._last[1]
            try:
                found = self._read(log, files)
            except FileNotFoundError:
                continue
            except SealError as exc:
                raise TrafficError(str(exc)) from exc
            found.left_out = left_out
            self._last = keys, found
            return found
        raise TrafficError(f"{self._folder} changes faster than it can be read")

    def _newest(self, files: list[_File]) -> tuple[list[_File], int]:
        """As many whole files as hold `max_records`, and the records in the others."""
        if self._max_records is None:
            return files, 0
        chosen: list[_File] = []
        rows = left_out = 0
        for each in reversed(files):
            if rows and rows + each.rows > self._max_records and each.rows:
                left_out += each.rows
                continue
            rows += each.rows
            chosen.append(each)
        return chosen[::-1], left_out

    def _read(self, log: LogFolder, files: list[_File]) -> Log:
        ledger = ledger_of(log)
        kept: dict[str, _FilePart] = {}
        count = 0
        for each in files:
            kept[each.key] = self._parts.get(each.key) or self._read_file(log, ledger, each, count)
            count += len(kept[each.key].columns)
            self._progress(count)
        self._parts = kept
        parts = list(kept.values()) or [_FilePart(self._builder().build(), (), (), 0)]
        columns = joined([part.columns for part in parts], self._vocabulary.names, self._vocabulary.tag_sets)
        _, first = np.unique(columns.ids, return_index=True)
        if len(first) < len(columns):
            columns = columns.take(np.sort(first))
        return Log(
            columns,
            [shadow for part in parts for shadow in part.shadows],
            [feedback for part in parts for feedback in part.feedback],
            sum(part.damaged for part in parts),
        )

    def _builder(self) -> ColumnsBuilder:
        return ColumnsBuilder(self._vocabulary, self._score_text)

    def _read_file(self, log: LogFolder, ledger: Ledger, file: _File, before: int) -> _FilePart:
        """Raises: FileNotFoundError, SealError."""
        builder, damaged = self._builder(), 0
        shadows: list[ShadowRecord] = []
        feedback: list[FeedbackRecord] = []
        for number, payload in enumerate(_payloads(log, file)):
            if number % 50_000 == 49_999:
                self._progress(before + number + 1)
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
        return _FilePart(builder.build(), tuple(shadows), tuple(feedback), damaged)


def _files_of(log: LogFolder) -> list[_File]:
    """Compacted files day by day, then segments. What was erased is part of every key. Raises: TrafficError."""
    seen = survey(log)
    erased = ",".join(sorted(ledger_of(log).names))
    compacted = sorted(
        ((file.day, file.name, part, file) for part in seen.parts for file in part.manifest.files),
        key=lambda each: each[:2],
    )
    files = [_File(f"{file.sha256} {erased}", None, part, file) for _, _, part, file in compacted]
    for name in seen.segments:
        try:
            size_bytes = (log.path / name).stat().st_size
        except FileNotFoundError:
            continue  # compacted meanwhile; the next reading finds it there
        files.append(_File(f"{name} {size_bytes} {erased}", name))
    return files


def _payloads(log: LogFolder, file: _File) -> Iterator[bytes | None]:
    """The JSON of every line; None for a damaged one. Raises: FileNotFoundError, SealError."""
    if file.segment is not None:
        for line in scan(log.path / file.segment, log.keyring):
            if line.payload is not None or line.fault != "unfinished":
                yield line.payload
        return
    assert file.part is not None and file.file is not None  # noqa: S101 - it is no segment
    try:
        with open_compacted(file.part.store, file.file, log.keyring if file.file.sealed else None) as opened:
            for payload, crc32 in parquet_rows(opened):
                yield payload if zlib.crc32(payload) == crc32 else None
    except FileNotFoundError:
        raise
    except (Tampered, ValueError, OSError, LookupError):  # as in policies/traffic.py; the rest of it is not readable
        yield None
