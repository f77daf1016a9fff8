"""Takes records out of segments that no gateway writes any more.

The lines that stay are copied as they are, encrypted ones too, into a new file that takes the old one's name when it is
durable. A killed run leaves the old segment and a file with the ending `.rewriting`, which the next run removes.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from policies.durable import sync
from policies.record import AnyRecord, DecisionRecord, ShadowRecord, decode_any
from policies.traffic.sealing import Keyring, SealError
from policies.traffic.segments import payload_of, whole_frames
from policies.traffic.survey import TrafficError
from router.segments import ask_to_rotate

REWRITING = ".rewriting"
_POLL_S = 0.05


@dataclass
class Rewritten:
    """What was done to segments."""

    removed: Counter[str] = field(default_factory=Counter)
    """Records, by kind; `damaged` are lines that could not be read."""
    segments: list[str] = field(default_factory=list)
    """That were rewritten or removed."""
    in_use: list[str] = field(default_factory=list)
    """That a gateway is writing: nothing was done to them."""
    unreadable: Counter[str] = field(default_factory=Counter)
    """Segment -> damaged lines that stay: nobody knows what they hold."""


@dataclass(frozen=True)
class Doomed:
    """What is to go."""

    record: Callable[[AnyRecord], bool]
    line: Callable[[bytes], bool] = lambda line: False
    """Of lines that cannot be read."""


def kind_of(record: AnyRecord) -> str:
    if isinstance(record, DecisionRecord):
        return "decisions"
    return "shadows" if isinstance(record, ShadowRecord) else "feedback"


def rotate(folder: Path, names: Collection[str], wait_s: float) -> None:
    """Ask gateways to let go of their segments, and give them some time to. Raises: OSError."""
    if not _in_use(folder, names):
        return
    ask_to_rotate(folder)
    deadline_s = time.monotonic() + wait_s
    while _in_use(folder, names) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)


def _in_use(folder: Path, names: Collection[str]) -> bool:
    """Whether a process writes one of them, and has written to it."""
    for name in names:
        try:
            with (folder / name).open("rb") as file:
                if os.fstat(file.fileno()).st_size:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            continue
    return False


def rewrite_segments(folder: Path, names: Collection[str], keyring: Keyring | None, doomed: Doomed) -> Rewritten:
    """Raises: TrafficError: the key of a record is missing. OSError: what was not done yet is as it was."""
    done = Rewritten()
    for path in folder.glob(f"*{REWRITING}"):
        path.unlink()
    for name in names:
        try:
            with (folder / name).open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _rewrite(folder / name, file, keyring, doomed, done)
        except FileNotFoundError:
            continue
        except BlockingIOError:
            if (folder / name).stat().st_size:
                done.in_use.append(name)
        except SealError as exc:
            raise TrafficError(str(exc)) from exc
    sync(folder)
    return done


class _Fate(NamedTuple):
    """What becomes of a line."""

    stays: bytes
    removed: tuple[str, ...] = ()
    unreadable: bool = False


def _rewrite(path: Path, file: BinaryIO, keyring: Keyring | None, doomed: Doomed, done: Rewritten) -> None:
    """Two passes, so that a segment that holds nothing of it is not written again."""
    changed: dict[int, bytes] = {}
    number = 0
    for number, line in enumerate(file, start=1):
        fate = _fate(line, keyring, doomed)
        done.removed.update(fate.removed)
        done.unreadable[path.name] += fate.unreadable
        if fate.stays != line:
            changed[number] = fate.stays
    done.unreadable += Counter()  # without zeros
    if not changed:
        return
    done.segments.append(path.name)
    if len(changed) == number and not any(changed.values()):
        path.unlink()
        return
    temporary = path.with_name(path.name + REWRITING)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        file.seek(0)
        for at, line in enumerate(file, start=1):
            target.write(changed.get(at, line))
        target.flush()
        os.fsync(target.fileno())
    times = os.fstat(file.fileno())
    os.utime(temporary, ns=(times.st_atime_ns, times.st_mtime_ns))  # readers judge a segment's age by it
    temporary.replace(path)


def _fate(line: bytes, keyring: Keyring | None, doomed: Doomed) -> _Fate:
    record = _record(line, keyring)
    if record is not None:
        return _Fate(b"", (kind_of(record),)) if doomed.record(record) else _Fate(line)
    kept, pieces, removed, at = [], [], [], 0
    for start, end in whole_frames(line):
        pieces.append(line[at:start])
        at, whole = end, line[start:end] + b"\n"
        record = _record(whole, keyring)
        if record is not None and doomed.record(record):
            removed.append(kind_of(record))
        else:
            kept.append(whole)
    rest = b"".join([*pieces, line[at:]]).strip(b"\0\n")
    if not line.endswith(b"\n"):  # a killed process left it: no answer went out for it
        return _Fate(b"".join(kept), tuple(removed))
    if rest and doomed.line(rest):
        return _Fate(b"".join(kept), (*removed, "damaged"))
    if not removed:
        return _Fate(line, unreadable=True)
    return _Fate(b"".join(kept) + (rest + b"\n" if rest else b""), tuple(removed), bool(rest))


def _record(line: bytes, keyring: Keyring | None) -> AnyRecord | None:
    payload = payload_of(line, keyring)
    try:
        return decode_any(payload) if payload is not None else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
