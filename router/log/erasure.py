"""Erasure: every record of a person, a tenant or a session goes, and does not come back.

    1. The records are looked for, and a tombstone is written (policies/traffic/tombstones.py). From now on nobody hands
       them out any more, wherever they still are.
    2. Gateways are asked for new segments, so that nobody writes the ones that there are. What requests that are under
       way now write later is filtered, and goes with the next compaction.
    3. Segments and compacted files that hold them are rewritten without them; what was replaced is removed.
    4. Everything is read again: nothing that a tombstone covers may be there, in no file that is left over either.

Killed anywhere, the same command, or the command without a choice, goes on: all work follows from the tombstones.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from policies.record import AnyRecord, DecisionRecord
from policies.traffic.folder import TOMBSTONES, LogFolder
from policies.traffic.reader import Reading, TrafficError
from policies.traffic.stores import Conflict
from policies.traffic.survey import Part, as_traffic_errors, ledger_of, open_folder, survey
from policies.traffic.tombstones import (
    Criterion,
    Ledger,
    SubjectKey,
    encode_tombstone,
    make_tombstone,
    subject_keys,
)
from router.log.cleaning import clean_part
from router.log.segment_rewriting import Doomed, Rewritten, rewrite_segments, rotate
from router.log.workspace import LOCK_WAIT_S, Progress, Workspace, sole_writer, sweep

MAX_CONFLICTS = 5
_POLL_S = 0.1


@dataclass(frozen=True)
class Choice:
    """Whose records go. All that is given must hold."""

    subject: str | None = None
    """As the client names the person."""
    tenant: str | None = None
    session: str | None = None
    decision_ids: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.decision_ids) or any(each is not None for each in (self.subject, self.tenant, self.session))


@dataclass
class Erasure:
    """The report."""

    chosen_by: list[str]
    tombstone: str | None = None
    started_s: float = 0.0
    removed: Counter[str] = field(default_factory=Counter)
    """Records, by kind."""
    rewritten: list[str] = field(default_factory=list)
    """Segments and compacted files."""
    in_use: list[str] = field(default_factory=list)
    """Segments that a gateway did not let go of."""
    waiting: list[str] = field(default_factory=list)
    """Replaced files that a query is reading."""
    unreadable: list[str] = field(default_factory=list)
    """Damaged places: nobody knows whose they are."""
    left: list[str] = field(default_factory=list)
    """Places where something is still there that should be gone."""
    elsewhere: list[str] = field(default_factory=list)
    """Instances of other machines: their segments are filtered from now on, and rewritten by their own compaction."""
    ids: set[str] = field(default_factory=set)
    """Of the records that were found; not for a report that is kept."""

    @property
    def complete(self) -> bool:
        return not (self.in_use or self.waiting or self.unreadable or self.left)


def forget(
    folder: Path,
    choice: Choice,
    *,
    progress: Progress,
    memory_limit: str = "2GB",
    wait_s: float = 15.0,
    lock_wait_s: float = LOCK_WAIT_S,
    drop_damaged: bool = False,
    now: Callable[[], float] = time.time,
) -> Erasure:
    """Erase records. Without a choice: go on with what tombstones say.

    Args:
        wait_s: for gateways to let go of their segments, and for queries to end.
        lock_wait_s: for a compaction that is under way to end.
        drop_damaged: also remove lines that cannot be read, since nobody can tell whose they are.
    Raises:
        TrafficError: the log or its keys cannot be used; nothing was erased. OSError.
    """
    log = open_folder(folder)
    done = Erasure(_fields_of(choice), started_s=now())
    survey(log)
    with as_traffic_errors(folder):
        _ = log.keyring
        keys = subject_keys(log.storage.subject_key_env, log.environ)
    progress("waiting for a compaction that may be under way")
    with sole_writer(log, wait_s=lock_wait_s, everywhere=True):
        ledger = ledger_of(log)
        if choice:
            progress("looking for the records")
            done.ids = set(choice.decision_ids) | _found(folder, choice, keys)
            ledger = _bury(log, ledger, choice, keys, done, now())
        progress("asking gateways for new segments")
        names = log.segments()
        rotate(folder, names, wait_s)
        progress("rewriting segments")
        _take_segments(done, _segments(log, names, ledger, choice, done.ids, drop_damaged))
        progress("rewriting compacted files")
        with Workspace.opened(log, memory_limit) as space:
            _clean_parts(space, ledger, done, now())
        progress("reading everything again")
        _sweep_all(log, done, wait_s)
        _verify(log, names, ledger, done)
    if log.remote is not None:
        done.elsewhere = [name for name in log.remote.folders() if name not in (TOMBSTONES, log.storage.instance)]
    return done


def _fields_of(choice: Choice) -> list[str]:
    given = {"decision_id": choice.decision_ids or None, **_values(choice)}
    return sorted(name for name, value in given.items() if value is not None)


def _values(choice: Choice) -> dict[str, str | None]:
    return {"subject": choice.subject, "tenant": choice.tenant, "session": choice.session}


def _found(folder: Path, choice: Choice, keys: list[SubjectKey]) -> set[str]:
    """The ids of all records that are chosen; of annotations, too, whose record is gone."""
    chosen = _matcher(choice, keys)
    reading = Reading(folder, segments=tuple(open_folder(folder).segments()), unfiltered=True)
    return {record.decision_id for record in reading if chosen(record)}


def _matcher(choice: Choice, keys: list[SubjectKey]) -> Callable[[AnyRecord], bool]:
    hashes = None if choice.subject is None else {key.hash(choice.subject) for key in keys}

    def chosen(record: AnyRecord) -> bool:
        if choice.decision_ids and record.decision_id not in choice.decision_ids:
            return False
        if choice.tenant is not None and record.tenant != choice.tenant:
            return False
        if choice.session is not None and getattr(record, "session", None) != choice.session:
            return False
        if hashes is None or choice.subject is None:
            return True
        return isinstance(record, DecisionRecord) and (
            record.subject in hashes or (record.subject is None and _names(record.request, choice.subject))
        )

    return chosen


def _names(request: str | None, subject: str) -> bool:
    """Whether a captured request, of a release that did not hash subjects yet, names a person."""
    if request is None or ("user" not in request and "safety_identifier" not in request):
        return False
    try:
        body = msgspec.json.decode(request)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    if not isinstance(body, dict):
        return False
    metadata = body.get("metadata")
    given = [body.get("user"), body.get("safety_identifier")]
    return subject in [*given, metadata.get("user_id") if isinstance(metadata, dict) else None]


def _bury(
    log: LogFolder, ledger: Ledger, choice: Choice, keys: list[SubjectKey], done: Erasure, now_s: float
) -> Ledger:
    """Write the tombstone; the ledger with it. A subject has a hash under every key."""
    values = {name: value for name, value in _values(choice).items() if value is not None}
    if choice.decision_ids:
        values = {}  # ids say it all
    for key in keys if choice.subject is not None and values else keys[:1]:
        chosen: Criterion = tuple(
            sorted((name, key.hash(value) if name == "subject" else value) for name, value in values.items())
        )
        name, tombstone = make_tombstone(ledger, keys[0], chosen, done.ids, now_s)
        with as_traffic_errors(log.path):
            log.ledgers()[-1].put(name, encode_tombstone(tombstone))
        done.tombstone = done.tombstone or name
    return ledger_of(log)


def _segments(
    log: LogFolder, names: list[str], ledger: Ledger, choice: Choice, ids: set[str], drop_damaged: bool
) -> Rewritten:
    needles = [text.encode() for text in (choice.subject, choice.session) if text] + [each.encode() for each in ids]

    def is_theirs(line: bytes) -> bool:
        return drop_damaged or any(needle in line for needle in needles)

    doomed = Doomed(ledger.covers, is_theirs)
    return rewrite_segments(log.path, names, log.keyring, doomed)


def _take_segments(done: Erasure, segments: Rewritten) -> None:
    done.removed += segments.removed
    done.rewritten += segments.segments
    done.in_use = segments.in_use
    done.unreadable += [f"{name}: {count} damaged lines" for name, count in segments.unreadable.items()]


def _clean_parts(space: Workspace, ledger: Ledger, done: Erasure, now_s: float) -> None:
    for label in [part.store.label for part in survey(space.log).parts]:
        for attempt in range(MAX_CONFLICTS):
            try:
                part = _part(space.log, label)
                if part.manifest.files and not ledger.names <= set(part.manifest.tombstones):
                    cleaned = clean_part(space, part, ledger, now_s)
                    done.removed += cleaned.removed
                    done.rewritten += cleaned.files
                    done.unreadable += [f"{each.place}: {each.cause}" for each in cleaned.damage]
                break
            except Conflict as exc:
                if attempt == MAX_CONFLICTS - 1:
                    raise TrafficError(f"{label} is changed by others all the time; run the command again") from exc


def _part(log: LogFolder, label: str) -> Part:
    return next(part for part in survey(log).parts if part.store.label == label)


def _sweep_all(log: LogFolder, done: Erasure, wait_s: float) -> None:
    """Remove replaced files and what interrupted runs left; wait for queries that read them."""
    deadline_s = time.monotonic() + wait_s
    for part in survey(log).parts:
        while (waiting := sweep(log, part, at_once=True)) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        done.waiting += [f"{part.store.label}/{name}" for name in waiting]


def _verify(log: LogFolder, names: list[str], ledger: Ledger, done: Erasure) -> None:
    """Read everything that was there."""
    there = set(log.segments())
    reading = Reading(log.path, segments=tuple(name for name in names if name in there), unfiltered=True)
    in_use = set(done.in_use)
    for stored, record in reading.placed():
        if ledger.covers(record) and stored.place.file not in in_use:
            done.left.append(str(stored.place))
    known = set(done.unreadable)
    done.left += [
        str(each.place) for each in reading.damage if not each.place.line and f"{each.place}: {each.cause}" not in known
    ]
