"""Segments: append-only files of records, one checksummed line each. The format, and how it is read.

A line is `<crc32 of the rest, 8 hex digits> <rest>\\n`; the rest is the record's JSON, or that JSON encrypted to one
line (policies/traffic/sealing.py). The writer (router/segments.py) only appends. A crash, or a reader that comes while
a gateway is writing, can leave the last line without its line end: that is no damage, its answer never went out.
Everything else that is not such a line was damaged later and is reported. Damage to a line end joins two lines, blocks
may be swapped or zeroed: whole records are looked for inside a damaged line as well, so that it costs no other record.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from policies.traffic.sealing import MARK, NO_KEY_NAMED, Keyring, SealError, Tampered

SUFFIX = ".seg"
FRAME_OVERHEAD_BYTES = 10
"""The checksum, the space and the line end around a record."""
_PREFIX_BYTES = 9
_MAY_START = re.compile(rb"[0-9a-f]{8} (?=\{|" + re.escape(MARK) + rb")")
_ZEROS = bytes(16)
"""Neither JSON nor a ciphertext has so many."""
MAX_STARTS = 256
"""Places in one damaged line where a record may start; a bound on the work, far above what damage leaves."""

Fault = Literal["checksum", "format", "sealed", "unfinished"]


class Line(NamedTuple):
    """One line of a segment: its payload, or what is wrong with it."""

    number: int
    """From 1."""
    payload: bytes | None
    fault: Fault | None = None
    """`unfinished` is the last line of a file that a process was or is writing; the others are damage. `sealed`: it is
    not what was encrypted."""


def frame(payload: bytes) -> bytes:
    """One line of a segment. The payload is one line of JSON, or a sealed one: it has no line feed."""
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def scan(path: Path, keyring: Keyring | None = None) -> Iterator[Line]:
    """Every line of a segment in order, damaged ones included: reading goes on behind them.

    Raises:
        OSError: the file is gone or cannot be read.
        SealError: it is encrypted, and the key is missing.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            found = _unframed(number, line, keyring)
            if found.fault in ("checksum", "format", "unfinished"):
                yield from _salvaged(line, found, keyring)
            else:
                yield found
            if not line.endswith(b"\n"):
                return  # a live file may have grown meanwhile: what follows is not the start of a line


def read_segment(path: Path, keyring: Keyring | None = None) -> Iterator[bytes]:
    """The JSON of every sound record in a segment, in order. Raises: OSError, SealError."""
    return (line.payload for line in scan(path, keyring) if line.payload is not None)


def payload_of(line: bytes, keyring: Keyring | None = None) -> bytes | None:
    """The JSON in a line, with its line end; None when it is no sound record. Raises: SealError."""
    return _unframed(0, line, keyring).payload


def whole_frames(line: bytes) -> list[tuple[int, int]]:
    """Where whole records stand in a damaged line: from the checksum to the last byte that it covers."""
    starts = [match.start() for match in _MAY_START.finditer(line)][:MAX_STARTS]
    ends = sorted({*(start - 1 for start in starts), len(line) - 1})
    found, behind = [], 0
    for start in starts:
        if start < behind:
            continue
        wanted, checksum, at = int(line[start : start + 8], 16), 0, start + _PREFIX_BYTES
        for end in ends:
            if end < at:
                continue
            checksum, at = zlib.crc32(line[at:end], checksum), end
            if checksum == wanted and end > start + _PREFIX_BYTES:
                found.append((start, end))
                behind = end
                break
    return found


def _salvaged(line: bytes, found: Line, keyring: Keyring | None) -> Iterator[Line]:
    """What is whole in a line that is not, and its fault. Zeros at the end of a file are what a power cut leaves."""
    frames = whole_frames(line)
    for start, end in frames:
        yield _opened(found.number, line[start + _PREFIX_BYTES : end], keyring)
    damaged = found.fault == "unfinished" and (frames or _ZEROS in line)
    yield Line(found.number, None, "format") if damaged else found


def _unframed(number: int, line: bytes, keyring: Keyring | None) -> Line:
    if not line.endswith(b"\n"):
        return Line(number, None, "unfinished")
    if len(line) < FRAME_OVERHEAD_BYTES or line[8:9] != b" ":
        return Line(number, None, "format")
    payload = line[_PREFIX_BYTES:-1]
    if line[:8] != b"%08x" % zlib.crc32(payload):
        return Line(number, None, "checksum")
    return _opened(number, payload, keyring)


def _opened(number: int, payload: bytes, keyring: Keyring | None) -> Line:
    """The record in a sound line. Raises: SealError."""
    if not payload.startswith(MARK):
        return Line(number, payload)
    if keyring is None:
        raise SealError(NO_KEY_NAMED)
    try:
        return Line(number, keyring.opened(payload))
    except Tampered:
        return Line(number, None, "sealed")
