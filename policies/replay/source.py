"""Reads a log into columns, file by file, and keeps the columns of files that do not change.

Compacted files are known by their hash, segments by name and size: only what is new is read again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from policies.record import FeedbackRecord, ShadowRecord
from policies.replay.columns import Columns, joined
from policies.replay.extract import ColumnsBuilder
from policies.replay.files import FilePart, LogFile, ScoreText, files_of
from policies.replay.parallel import reading
from policies.traffic.folder import LogFolder
from policies.traffic.sealing import SealError
from policies.traffic.survey import TrafficError, open_folder

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


class LogReader:
    """Reads one folder again and again."""

    def __init__(
        self,
        folder: Path,
        *,
        score_text: ScoreText | None = None,
        max_records: int | None = None,
        jobs: int = 1,
        progress: Progress = lambda count: None,
    ) -> None:
        """
        Args:
            score_text: see `ColumnsBuilder`. With several jobs it is pickled.
            max_records: of the newest; whole files are left out. None: all.
            jobs: processes that read when there is much to read; 1: only this one.
        """
        self._folder = folder
        self._score_text = score_text
        self._max_records = max_records
        self._jobs = jobs
        self._progress = progress
        self._parts: dict[str, FilePart] = {}
        self._last: tuple[tuple[str, ...], Log] | None = None

    def read(self) -> Log:
        """The log as it is now; the same object as long as nothing has changed. Raises: TrafficError, ReaderDied."""
        for _ in range(TRIES):
            log = open_folder(self._folder)
            files, left_out = self._newest(files_of(log))
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

    def _newest(self, files: list[LogFile]) -> tuple[list[LogFile], int]:
        """As many whole files as hold `max_records`, and the records in the others."""
        if self._max_records is None:
            return files, 0
        chosen: list[LogFile] = []
        rows = left_out = 0
        for each in reversed(files):
            if rows and rows + each.rows > self._max_records and each.rows:
                left_out += each.rows
                continue
            rows += each.rows
            chosen.append(each)
        return chosen[::-1], left_out

    def _read(self, log: LogFolder, files: list[LogFile]) -> Log:
        kept: dict[str, FilePart] = {}
        count = 0
        new = [each for each in files if each.key not in self._parts]
        with reading(log, new, self._score_text, self._jobs) as parts_read:
            for each in files:
                kept[each.key] = self._parts[each.key] if each.key in self._parts else next(parts_read)
                count += len(kept[each.key].columns)
                self._progress(count)
        self._parts = kept
        parts = list(kept.values()) or [FilePart(ColumnsBuilder().build())]
        columns = joined([part.columns for part in parts])
        _, first = np.unique(columns.ids, return_index=True)
        if len(first) < len(columns):
            columns = columns.take(np.sort(first))
        return Log(
            columns,
            [shadow for part in parts for shadow in part.shadows],
            [feedback for part in parts for feedback in part.feedback],
            sum(part.damaged for part in parts),
        )
