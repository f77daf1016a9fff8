"""Segments: append-only files of records, one checksummed line each. The format, and how it is read.

A line is `<crc32 of the rest, 8 hex digits> <rest>\\n`; the rest is the record's JSON, or that JSON encrypted to one
line of text (policies/sealing.py). The writer (router/segments.py) only appends. A crash, or a reader that comes while
a gateway is writing, can leave the last line without its line end: that is no damage, its answer never went out.
Everything else that is not such a line was damaged later and is reported.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from policies.sealing import MARK, Keyring, SealError, Tampered

SUFFIX = ".seg"
FRAME_OVERHEAD_BYTES = 10
"""The checksum, the space and the line end around a record."""
_PREFIX_BYTES = 9

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
            yield _unframed(number, line, keyring)
            if not line.endswith(b"\n"):
                return  # a live file may have grown meanwhile: what follows is not the start of a line


def read_segment(path: Path, keyring: Keyring | None = None) -> Iterator[bytes]:
    """The JSON of every sound record in a segment, in order. Raises: OSError, SealError."""
    return (line.payload for line in scan(path, keyring) if line.payload is not None)


def payload_of(line: bytes, keyring: Keyring | None = None) -> bytes | None:
    """The JSON in a line, with its line end; None when it is no sound record. Raises: SealError."""
    return _unframed(0, line, keyring).payload


def _unframed(number: int, line: bytes, keyring: Keyring | None) -> Line:
    if not line.endswith(b"\n"):
        return Line(number, None, "unfinished")
    if len(line) < FRAME_OVERHEAD_BYTES or line[8:9] != b" ":
        return Line(number, None, "format")
    payload = line[_PREFIX_BYTES:-1]
    if line[:8] != b"%08x" % zlib.crc32(payload):
        return Line(number, None, "checksum")
    if payload.startswith(MARK):
        if keyring is None:
            raise SealError("the log is encrypted, and its storage.json names no variable with the key")
        try:
            payload = keyring.opened(payload)
        except Tampered:
            return Line(number, None, "sealed")
    return Line(number, payload)
