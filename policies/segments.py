"""Segments: append-only files of records, one checksummed line each. The format, and how it is read.

A line is `<crc32 of the JSON, 8 hex digits> <JSON>\\n`. The writer (router/segments.py) only appends. A crash, or a
reader that comes while a gateway is writing, can leave the last line without its line end: that is no damage, its
answer never went out. Everything else that is not such a line was damaged later and is reported.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

SUFFIX = ".seg"
FRAME_OVERHEAD_BYTES = 10
"""The checksum, the space and the line end around a record."""
_PREFIX_BYTES = 9

Fault = Literal["checksum", "format", "unfinished"]


class Line(NamedTuple):
    """One line of a segment: its payload, or what is wrong with it."""

    number: int
    """From 1."""
    payload: bytes | None
    fault: Fault | None = None
    """`unfinished` is the last line of a file that a process was or is writing; the others are damage."""


def frame(payload: bytes) -> bytes:
    """One line of a segment. The payload is one line of JSON: it has no line feed."""
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def scan(path: Path) -> Iterator[Line]:
    """Every line of a segment in order, damaged ones included: reading goes on behind them.

    Raises:
        OSError: the file is gone or cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield _unframed(number, line)
            if not line.endswith(b"\n"):
                return  # a live file may have grown meanwhile: what follows is not the start of a line


def read_segment(path: Path) -> Iterator[bytes]:
    """The JSON of every sound record in a segment, in order. Raises: OSError."""
    return (line.payload for line in scan(path) if line.payload is not None)


def payload_of(line: bytes) -> bytes | None:
    """The JSON of one line, None when it is damaged or unfinished."""
    return _unframed(0, line).payload


def _unframed(number: int, line: bytes) -> Line:
    if not line.endswith(b"\n"):
        return Line(number, None, "unfinished")
    if len(line) < FRAME_OVERHEAD_BYTES or line[8:9] != b" ":
        return Line(number, None, "format")
    payload = line[_PREFIX_BYTES:-1]
    if line[:8] != b"%08x" % zlib.crc32(payload):
        return Line(number, None, "checksum")
    return Line(number, payload)
