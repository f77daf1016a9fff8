"""`current.json` and `history.jsonl`: which bundle is served, and how that came about."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import msgspec

from policies.durable import write_atomically
from serving.errors import RegistryError

logger = logging.getLogger(__name__)

POINTER_FILE, HISTORY_FILE = "current.json", "history.jsonl"
POINTER_SCHEMA = 1
ROLLBACK_DEPTH = 50
"""How many earlier bundles the pointer remembers."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the pointer, a line of the history."""

    sequence: int
    """1, 2, …; the gateway follows the highest."""
    time_s: float
    action: Literal["promote", "rollback"]
    bundle_id: str
    before: str | None
    """The bundle that was current."""
    verdict: str
    """Of the gate, as the bundle's manifest says it."""
    forced: bool = False
    reason: str | None = None


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """`current.json`. It carries its own last change, so that a killed writer cannot lose a line of the history."""

    schema: int
    bundle_id: str
    earlier: tuple[str, ...] = ()
    """What a rollback goes back to, the nearest first."""
    change: Change

    @property
    def sequence(self) -> int:
        return self.change.sequence


def read_pointer(root: Path) -> Pointer | None:
    """None before the first promotion. Raises: RegistryError: somebody edited it."""
    path = root / POINTER_FILE
    try:
        pointer = msgspec.json.decode(path.read_bytes(), type=Pointer)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise RegistryError(f"{path} cannot be read: {exc.strerror}") from exc
    except msgspec.MsgspecError as exc:
        raise RegistryError(f"{path} is damaged ({exc}); remove it and promote a bundle again") from exc
    if pointer.schema != POINTER_SCHEMA:
        raise RegistryError(f"{path}: schema {pointer.schema} is not the {POINTER_SCHEMA} of this version")
    return pointer


def read_history(root: Path) -> tuple[Change, ...]:
    """Every change, oldest first. Raises: RegistryError: a line is damaged."""
    path, pointer = root / HISTORY_FILE, read_pointer(root)
    whole = _whole_lines(root)  # a writer that was killed in the last line has left it in the pointer
    try:
        changes = [msgspec.json.decode(line, type=Change) for line in whole.splitlines()]
    except msgspec.MsgspecError as exc:
        raise RegistryError(f"{path} is damaged: {exc}") from exc
    if pointer and (not changes or changes[-1].sequence < pointer.sequence):
        changes.append(pointer.change)
    return tuple(changes)


def write_pointer(root: Path, pointer: Pointer) -> None:
    """Replace the pointer in one rename and note the change. The caller holds the registry's lock.

    Raises:
        OSError: for example a full disk; the pointer is the old one.
    """
    before = read_pointer(root)
    if before is not None:
        _record(root, before.change)
    write_atomically(root / POINTER_FILE, msgspec.json.format(msgspec.json.encode(pointer), indent=1))
    try:
        _record(root, pointer.change)
    except OSError as exc:
        # The change has happened; its line is in the pointer, and the next change writes it down.
        logger.warning("%s: the last line is not written yet: %s", root / HISTORY_FILE, exc)


def last_sequence(root: Path) -> int:
    """Of the newest change in the history; 0 when there is none."""
    whole = _whole_lines(root)
    return _sequence(whole.splitlines()[-1]) if whole else 0


def _whole_lines(root: Path) -> bytes:
    path = root / HISTORY_FILE
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def _record(root: Path, change: Change) -> None:
    """Append a change unless it is there."""
    path, whole = root / HISTORY_FILE, _whole_lines(root)
    if last_sequence(root) >= change.sequence:
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.ftruncate(descriptor, len(whole))
        os.pwrite(descriptor, msgspec.json.encode(change) + b"\n", len(whole))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sequence(line: bytes) -> int:
    """0 for a line that is damaged; `read_history` complains about it."""
    try:
        return msgspec.json.decode(line, type=Change).sequence
    except msgspec.MsgspecError:
        return 0
