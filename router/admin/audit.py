"""The audit log of administration: who changed what and when, in a file whose lines vouch for those before them.

    {"sequence": 7, "time_s": ..., "actor": "admin", "key_end": "x7Qz", "action": "policy.put", "result": "ok",
     "from_version": 4, "to_version": 5, "detail": "...", "previous": "<sha256>", "sha256": "<sha256>"}

Each line carries the hash of its own content and of the line before it, so that a line that was changed, removed or put
in shows. Whoever can write the file can of course write a whole new chain: ship the log elsewhere if that matters, and
compare the last hash. There are no secrets in it, and no prompts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

FILE = "audit.jsonl"
NO_LINE = "0" * 64
"""Stands as the hash before the first line."""
MAX_DETAIL_CHARS = 2_000

Outcome = Literal["ok", "unchanged", "refused", "failed"]


class AuditError(Exception):
    """The log cannot be written; what is not written down is not done."""


class Actor(NamedTuple):
    """Who did it."""

    name: str
    """Of the key, or `file` for an edit of the configuration file."""
    key_end: str = ""
    """The last characters of the key, which tell two of one name apart."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line."""

    sequence: int
    """From 1, without gaps."""
    time_s: float
    actor: str
    key_end: str
    action: str
    result: Outcome
    from_version: int | None = None
    to_version: int | None = None
    detail: str = ""
    previous: str
    sha256: str = ""

    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, sha256=""))).hexdigest()


class Audit:
    """One file; several processes of this machine may append to it."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = folder / FILE
        self._clock = clock

    def check(self) -> None:
        """To be called before an action. Raises: AuditError: it could not be written down."""
        with self._opened():
            pass

    def record(
        self,
        actor: Actor,
        action: str,
        result: Outcome,
        *,
        from_version: int | None = None,
        to_version: int | None = None,
        detail: str = "",
    ) -> Entry:
        """Append a line and have it on the disk. Raises: AuditError."""
        with self._opened() as descriptor:
            content = _read_all(descriptor)
            whole = content[: content.rfind(b"\n") + 1]  # a killed writer may have left a part of a line
            last = _last(whole)
            entry = Entry(
                sequence=last.sequence + 1 if last else 1,
                time_s=self._clock(),
                actor=actor.name,
                key_end=actor.key_end,
                action=action,
                result=result,
                from_version=from_version,
                to_version=to_version,
                detail=detail[:MAX_DETAIL_CHARS],
                previous=last.sha256 if last else NO_LINE,
            )
            entry = msgspec.structs.replace(entry, sha256=entry.digest())
            try:
                os.ftruncate(descriptor, len(whole))
                _write(descriptor, msgspec.json.encode(entry) + b"\n", at=len(whole))
                os.fsync(descriptor)
            except OSError as exc:
                raise AuditError(f"{self.path} cannot be written: {exc.strerror}") from exc
            return entry

    def entries(self) -> tuple[list[Entry], str | None]:
        """Every line that can be read, oldest first, and the first thing wrong with the chain. Raises: OSError."""
        if not self.path.exists():
            return [], None
        entries: list[Entry] = []
        problem = None
        previous, sequence = NO_LINE, 0
        for number, line in enumerate(self.path.read_bytes().splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                break  # being written, or left by a killed writer: the next line takes its place
            entry = _decoded(line)
            if entry is None:
                problem = problem or f"line {number} is not an entry"
                continue
            if problem is None and entry.sha256 != entry.digest():
                problem = f"line {number} was changed: its hash is not that of its content"
            if problem is None and (entry.previous, entry.sequence) != (previous, sequence + 1):
                problem = f"line {number} does not follow the line before it: lines were removed, put in or changed"
            previous, sequence = entry.sha256, entry.sequence
            entries.append(entry)
        return entries, problem

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The file, locked against other writers. Raises: AuditError."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise AuditError(f"admin.dir: {self.path} cannot be written: {exc.strerror}") from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _write(descriptor: int, data: bytes, *, at: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written


def _last(whole: bytes) -> Entry | None:
    """The last entry; a damaged last line breaks the chain visibly, and the next line starts behind it."""
    if not whole:
        return None
    lines = whole.splitlines()
    entry = _decoded(lines[-1])
    if entry is not None:
        return entry
    return Entry(
        sequence=len(lines), time_s=0, actor="", key_end="", action="", result="failed", previous="", sha256=NO_LINE
    )


def _decoded(line: bytes) -> Entry | None:
    try:
        return msgspec.json.decode(line, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
