"""Reads a traffic folder: segments, those that a gateway is writing now included, and compacted Parquet.

    from policies.traffic.reader import decisions, read

    reading = read(Path("traffic"))             # or kind="decisions" | "feedback" | "shadows" | "annotations" (both)
    for record in reading:                      # DecisionRecord | FeedbackRecord | ShadowRecord, each exactly once
        ...
    reading.damage                              # what could not be read, by file and line; reading went on behind it
    reading.doubled                             # ids that came a second time; only the first was handed out
    reading.counts                              # of each kind, and lines that are still being written

    for record in decisions(Path("traffic")):   # DecisionRecord only
        ...
    judged = judgements(Path("traffic"))        # policies/quality/judgements.py; one pass over the feedback
    judged.of(record)                           # Judgement(score, label, correction, ...) | None

`read` streams: memory does not grow with the log but for a bit for each id, about 1 byte a record of one process.
Order: compacted files first, exactly by `created_s` within a day and day by day; then segments by the time at which
they were opened, in each of them by the end of the request. Sort by `created_s` where the order matters.

Only Parquet needs `pip install 'locum[loop]'`; a folder of segments alone is read without it. To select with SQL, see
policies/traffic/sql.py: `open_log(folder).decisions(where="decision.reason = 'fits'")`.

Raises: TrafficError for a folder that cannot be read; damage in the files is data here, not an error.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import msgspec

from policies.record import AnyRecord, DecisionRecord, FeedbackRecord, ShadowRecord, decode_any, is_annotation
from policies.traffic.compacted import CompactedFile, RecordKind
from policies.traffic.files import open_compacted
from policies.traffic.folder import LogFolder
from policies.traffic.sealing import SealError, Tampered
from policies.traffic.segments import scan
from policies.traffic.survey import Part, TrafficError, ledger_of, open_folder, snapshot, survey
from policies.traffic.tombstones import Ledger

__all__ = [
    "Counts", "Damage", "Doubled", "IdSet", "Kind", "Place", "Reading", "Stored", "TrafficError", "decisions",
    "parquet_rows", "read", "shadows", "snapshot",
]  # fmt: skip
MAX_ROUNDS = 100
"""Compactions that may move files away under one reader."""
_BATCH_ROWS = 1024
Kind = Literal["decisions", "feedback", "shadows", "annotations"]
"""What a reading may be limited to."""
_KINDS: dict[Kind, tuple[type[AnyRecord], ...]] = {
    "decisions": (DecisionRecord,),
    "feedback": (FeedbackRecord,),
    "shadows": (ShadowRecord,),
    "annotations": (FeedbackRecord, ShadowRecord),
}
_BIT_OF = {f"{number:02x}": 1 << number for number in range(256)}


class Place(NamedTuple):
    """Where a record stands."""

    file: str
    """Relative to the traffic folder."""
    line: int
    """Line of a segment or row of a Parquet file, from 1; 0 = the whole file."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Damage(NamedTuple):
    """Something that is not a record."""

    place: Place
    cause: str


class Doubled(NamedTuple):
    """A record whose id was there before."""

    place: Place
    decision_id: str


class Stored(NamedTuple):
    """A sound line, not decoded yet."""

    place: Place
    payload: bytes

    @property
    def is_annotation(self) -> bool:
        return is_annotation(self.payload)


@dataclass
class Counts:
    """What a reading has met so far."""

    decisions: int = 0
    feedback: int = 0
    shadows: int = 0
    forgotten: int = 0
    """Records that were erased and came back: they are not handed out."""
    unfinished: int = 0
    """Last lines that are still being written, or that a killed process left; no record was promised there."""


class IdSet:
    """Which ids were there. Ids of one process differ in their last digits: 256 of them share an entry."""

    def __init__(self) -> None:
        self._bits: dict[str, int] = {}
        self._odd: set[str] = set()

    def add(self, identity: str) -> bool:
        """Whether it is new."""
        bit = _BIT_OF.get(identity[-2:])
        if bit is None:
            known = len(self._odd)
            self._odd.add(identity)
            return len(self._odd) > known
        bits = self._bits.get(identity[:-2], 0)
        self._bits[identity[:-2]] = bits | bit
        return not bits & bit


@dataclass
class Reading:
    """One pass over a traffic folder. Iterate it once; the fields are complete when the iteration has ended."""

    folder: Path
    kind: Kind | None = None
    compacted: Callable[[Part], bool] = lambda part: True
    """Which parts' compacted files to read."""
    segments: tuple[str, ...] | None = None
    """Which segments to read; None: those that are not compacted yet."""
    unfiltered: bool = False
    """Hand out everything that is there, what was erased or is doubled included: for those who erase."""
    damage: list[Damage] = field(default_factory=list)
    doubled: list[Doubled] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    _ids: IdSet = field(default_factory=IdSet)
    _annotations: set[bytes] = field(default_factory=set)
    _again: bool = False
    """Files were moved under this reader: what it meets twice now is no damage."""

    @cached_property
    def log(self) -> LogFolder:
        """Raises: TrafficError."""
        return open_folder(self.folder)

    @cached_property
    def ledger(self) -> Ledger:
        """Raises: TrafficError."""
        return Ledger({}, ()) if self.unfiltered else ledger_of(self.log)

    def __iter__(self) -> Iterator[AnyRecord]:
        for _, record in self.placed():
            yield record

    @property
    def stored_kind(self) -> RecordKind | None:
        """The kind of compacted files that hold what is asked for; None: all."""
        return self.kind if self.kind in (None, "decisions") else "feedback"

    def placed(self) -> Iterator[tuple[Stored, AnyRecord]]:
        """The same, with the place of each record and its JSON as it is stored."""
        ledger = self.ledger
        for stored in self._stored():
            if self.kind is not None and stored.is_annotation == (self.kind == "decisions"):
                continue
            try:
                record = decode_any(stored.payload)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
                self.damage.append(Damage(stored.place, f"not a record: {exc}"))
                continue
            if self.kind is not None and not isinstance(record, _KINDS[self.kind]):
                continue
            if ledger and ledger.covers(record):
                self.counts.forgotten += 1
            elif self._is_new(stored, record) or self.unfiltered:
                yield stored, record

    def _is_new(self, stored: Stored, record: AnyRecord) -> bool:
        if isinstance(record, DecisionRecord):
            new = self._ids.add(record.decision_id)
            self.counts.decisions += new
        else:  # an annotation has no id of its own: only the very same line is a double
            digest = hashlib.blake2b(stored.payload, digest_size=16).digest()
            new = digest not in self._annotations
            self._annotations.add(digest)
            if isinstance(record, ShadowRecord):
                self.counts.shadows += new
            else:
                self.counts.feedback += new
        if not new and not self._again:
            self.doubled.append(Doubled(stored.place, record.decision_id))
        return new

    def _stored(self) -> Iterator[Stored]:
        """Every sound line. Files that a compaction moves away meanwhile are found again in what it wrote."""
        done: set[str] = set()
        for _ in range(MAX_ROUNDS):
            vanished = False
            seen = survey(self.log)
            segments = seen.segments if self.segments is None else list(self.segments)
            compacted = self._wanted(seen.parts)
            for name in [*compacted, *segments]:
                if name in done:
                    continue
                try:
                    yield from self._parquet(name, *compacted[name]) if name in compacted else self._segment(name)
                    done.add(name)
                except FileNotFoundError:
                    vanished = True
                except SealError as exc:
                    raise TrafficError(str(exc)) from exc
            if not vanished:
                return
            self._again = True
            if survey(self.log).manifests() == seen.manifests():
                gone = [name for name, (part, file) in compacted.items() if name not in done and _is_gone(part, file)]
                self.damage += [Damage(Place(name, 0), "the file is gone") for name in gone]
                done.update(gone)
        raise TrafficError(f"{self.folder} changes faster than it can be read")

    def _wanted(self, parts: list[Part]) -> dict[str, tuple[Part, CompactedFile]]:
        """The compacted files to read, day by day, by the names that messages call them."""
        found = [
            (file.day, part.place(file), part, file)
            for part in parts
            if self.compacted(part)
            for file in part.manifest.files
            if self.stored_kind in (None, file.kind)
        ]
        return {name: (part, file) for _, name, part, file in sorted(found, key=lambda each: each[:2])}

    def _segment(self, name: str) -> Iterator[Stored]:
        for line in scan(self.folder / name, self.log.keyring):
            if line.payload is not None:
                yield Stored(Place(name, line.number), line.payload)
            elif line.fault == "unfinished":
                self.counts.unfinished += 1
            else:
                self.damage.append(Damage(Place(name, line.number), _FAULTS[line.fault or "format"]))

    def _parquet(self, name: str, part: Part, file: CompactedFile) -> Iterator[Stored]:
        row = 0
        try:
            with open_compacted(part.store, file, self.log.keyring if file.sealed else None) as opened:
                for payload, crc32 in parquet_rows(opened):
                    row += 1
                    if zlib.crc32(payload) == crc32:
                        yield Stored(Place(name, row), payload)
                    else:
                        self.damage.append(Damage(Place(name, row), _FAULTS["checksum"]))
        except FileNotFoundError:
            raise
        except (Tampered, ValueError, OSError, LookupError) as exc:  # pyarrow's; a foreign file has other columns
            self.damage.append(Damage(Place(name, 0), f"not readable behind row {row}: {exc}"))


def _is_gone(part: Part, file: CompactedFile) -> bool:
    try:
        part.store.ranged(file.name)
    except FileNotFoundError:
        return True
    return False


_FAULTS = {
    "checksum": "the checksum does not fit",
    "format": "not a line of a segment",
    "sealed": "it is not what was encrypted",
}


def read(folder: Path, *, kind: Kind | None = None) -> Reading:
    """Start a pass over a traffic folder. Raises: TrafficError: no such folder, or its manifest is damaged."""
    snapshot(folder)
    return Reading(folder, kind)


def decisions(folder: Path) -> Iterator[DecisionRecord]:
    """Every decision record once. Raises: TrafficError."""
    return (record for record in read(folder, kind="decisions") if isinstance(record, DecisionRecord))


def shadows(folder: Path) -> Iterator[ShadowRecord]:
    """Every answer of the other model once. Raises: TrafficError."""
    return (record for record in read(folder, kind="shadows") if isinstance(record, ShadowRecord))


def parquet_rows(file: BinaryIO, part: int = 0, parts: int = 1) -> Iterator[tuple[bytes, int]]:
    """(payload, crc32) of every row, in order.

    Args:
        part, parts: only this one of so many about equal parts, from 0.
    Raises:
        TrafficError, ValueError, OSError.
    """
    try:
        import pyarrow  # noqa: PLC0415 - heavy, and not installed with the gateway
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as exc:
        raise TrafficError("compacted files need pyarrow: pip install 'locum[loop]'") from exc
    opened = pyarrow.parquet.ParquetFile(file)
    groups = range(opened.num_row_groups * part // parts, opened.num_row_groups * (part + 1) // parts)
    for batch in opened.iter_batches(_BATCH_ROWS, row_groups=groups, columns=["payload", "crc32"]):
        payloads = batch.column("payload").cast(pyarrow.binary()).to_pylist()  # no text is made of what is JSON
        yield from zip(payloads, batch.column("crc32").to_pylist(), strict=True)
