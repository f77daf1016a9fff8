"""Segments read from their end, newest first: for people who look at the last decisions while more are being written.

A segment is written in the order in which requests end, so the time of a place in it can be found by bisection. Nothing
is kept but one block of a file at a time.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from policies.record import is_annotation
from policies.traffic.sealing import Keyring
from policies.traffic.segments import payload_of

BLOCK_BYTES = 256 * 1024
NEAR_BYTES = 64 * 1024
"""Bisection ends here; the rest is read line by line."""
REORDERED = 64
"""Requests that end at once are written in any order: so many records are held back to sort them."""
SLACK_S = 5.0
"""By how much the order of a segment may differ from its records' own times: clocks are set, threads wait."""


class _Times(msgspec.Struct):
    """What every record says about its time."""

    created_s: float
    latency_s: float | None = None


_times = msgspec.json.Decoder(_Times).decode


class Found(NamedTuple):
    """One record of a segment."""

    ended_s: float
    """Unix time."""
    payload: bytes


def newest_first(
    folder: Path, names: list[str], before_s: float = float("inf"), *, keyring: Keyring | None = None
) -> Iterator[Found]:
    """The decision records of some segments, sorted by the time at which they ended, from `before_s` on backwards;
    some that ended up to `SLACK_S` later may come first.

    Raises:
        FileNotFoundError: a compaction took one of them; start again with what it left.
        SealError: they are encrypted, and the key is missing.
    """
    held: list[tuple[float, int, bytes]] = []
    for number, found in enumerate(_merged(folder, names, before_s, keyring)):
        entry = (-found.ended_s, number, found.payload)
        if len(held) < REORDERED:
            heapq.heappush(held, entry)
            continue
        negative_s, _, payload = heapq.heappushpop(held, entry)
        yield Found(-negative_s, payload)
    for negative_s, _, payload in sorted(held):
        yield Found(-negative_s, payload)


def _merged(folder: Path, names: list[str], before_s: float, keyring: Keyring | None) -> Iterator[Found]:
    """A segment is opened when its turn comes: the time of its last write tells."""
    waiting = sorted(((folder / name).stat().st_mtime, name) for name in names)
    merged: list[tuple[float, str, bytes, Iterator[Found]]] = []

    def push(name: str, records: Iterator[Found]) -> None:
        for found in records:
            heapq.heappush(merged, (-found.ended_s, name, found.payload, records))
            return

    while waiting or merged:
        while waiting and (not merged or waiting[-1][0] >= -merged[0][0]):
            _, name = waiting.pop()
            push(name, _backwards(folder / name, before_s, keyring))
        if not merged:
            return
        negative_s, name, payload, records = heapq.heappop(merged)
        yield Found(-negative_s, payload)
        push(name, records)


def annotations_since(
    folder: Path, names: list[str], since_s: float, *, keyring: Keyring | None = None
) -> Iterator[bytes]:
    """The annotations that were written to some segments from a time on. Raises: FileNotFoundError, SealError."""
    for name in names:
        path = folder / name
        if path.stat().st_mtime < since_s - SLACK_S:
            continue
        with path.open("rb") as file:
            file.seek(_place_of(file, since_s - SLACK_S, keyring))
            for line in file:
                payload = payload_of(line, keyring)
                if payload is not None and is_annotation(payload):
                    yield payload


def _backwards(path: Path, before_s: float, keyring: Keyring | None) -> Iterator[Found]:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        if before_s < float("inf"):
            end = _place_of(file, before_s + SLACK_S, keyring)
        for line in _lines_backwards(file, end):
            payload = payload_of(line, keyring)
            if payload is not None and not is_annotation(payload):
                ended_s = _ended_s(payload)
                if ended_s is not None:
                    yield Found(ended_s, payload)


def _lines_backwards(file: BinaryIO, end: int) -> Iterator[bytes]:
    """Complete lines that end at or before a place, the last one first."""
    begun = b""
    """What is known of a line whose beginning lies in an earlier block."""
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        file.seek(start)
        block = file.read(end - start) + begun
        cut = block.find(b"\n") + 1 if start else 0
        if start and not cut:
            begun = block
        else:
            *lines, _unfinished = block[cut:].split(b"\n")
            for line in reversed(lines):
                yield line + b"\n"
            begun = block[:cut]
        end = start


def _place_of(file: BinaryIO, time_s: float, keyring: Keyring | None) -> int:
    """Start of the first line whose record ended after `time_s`; the end of the file when there is none."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while high - low > NEAR_BYTES:
        middle = (low + high) // 2
        start = _line_start(file, middle)
        ended_s = next((each for _, each in _times_from(file, start, keyring)), None)
        if ended_s is None or ended_s > time_s:
            high = middle
        else:
            low = start
    for start, ended_s in _times_from(file, low, keyring):
        if ended_s > time_s:
            return start
    return file.seek(0, os.SEEK_END)


def _line_start(file: BinaryIO, place: int) -> int:
    """Of the first line that begins at or behind a place."""
    file.seek(place - 1 if place else 0)
    if place:
        file.readline()
    return file.tell()


def _times_from(file: BinaryIO, start: int, keyring: Keyring | None) -> Iterator[tuple[int, float]]:
    """Where each record begins and when it ended."""
    file.seek(start)
    while line := file.readline():
        payload = payload_of(line, keyring)
        ended_s = _ended_s(payload) if payload is not None else None
        if ended_s is not None:
            yield start, ended_s
        start += len(line)


def _ended_s(payload: bytes) -> float | None:
    try:
        times = _times(payload)
    except msgspec.DecodeError:
        return None  # of another release, say; `locum log verify` is the judge
    return times.created_s + (times.latency_s or 0.0)
