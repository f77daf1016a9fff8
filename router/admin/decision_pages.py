"""Pages of decisions, newest first, and one decision with all that is known about it, out of a traffic folder.

First comes what is in segments, by the end of the requests, then what is compacted, by day and by the begin of the
requests. A page reads until it is full or its time is up: memory is bounded by one page and one batch, whatever the
log. Runs on a thread.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from policies.base import RouteDecision
from policies.record import AnyRecord, DecisionRecord, Usage, decode, decode_any
from policies.traffic.reader import TrafficError
from policies.traffic.sealing import SealError
from policies.traffic.survey import ledger_of, open_folder, survey
from policies.traffic.tombstones import Ledger
from router.admin import compacted_days
from router.admin.backwards import annotations_since, newest_first

MAX_ATTEMPTS = 5
"""Compactions that may move files away under one page."""
PAGE_S = 2.0
"""A page that finds little ends after this time, with a cursor to go on from."""
FIND_S = 10.0
CHECK_EVERY = 256


class DraftRow(msgspec.Struct, frozen=True):
    """Of a draft, what a table shows."""

    escalated: bool = False
    review: RouteDecision | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Of a decision record, what a table shows: decoded alone, so that texts are passed over."""

    decision_id: str
    created_s: float
    endpoint: str
    stream: bool
    requested_model: str
    decision: RouteDecision
    reason: str
    route: str | None = None
    degraded: str | None = None
    fallback_cause: str | None = None
    status: int
    outcome: str
    error_code: str | None = None
    student: str
    teacher: str
    usage: Usage | None = None
    cost_usd: float | None = None
    counterfactual_cost_usd: float | None = None
    ttft_s: float | None = None
    latency_s: float
    tenant: str = "default"
    session: str | None = None
    tags: dict[str, str] = {}
    purpose: str = "traffic"
    capture: str
    draft: DraftRow | None = None

    @property
    def policy(self) -> str:
        """Who decided: the reviewer of a draft that was thrown away, else whoever chose before generation."""
        if self.draft is not None and self.draft.escalated and self.draft.review is not None:
            return self.draft.review.policy
        return self.decision.policy


T = TypeVar("T")
_row = msgspec.json.Decoder(Row).decode


class Position(NamedTuple):
    """A place in the order of the pages: behind the record with these values."""

    in_days: bool
    """In what is compacted."""
    at_s: float
    decision_id: str

    def encoded(self) -> str:
        return f"{'d' if self.in_days else 's'}.{self.at_s!r}.{self.decision_id}"

    @classmethod
    def decoded(cls, text: str) -> Position:
        """Raises: ValueError."""
        match = re.fullmatch(r"([ds])\.(\d{1,12}(?:\.\d{1,12})?)\.([0-9a-zA-Z_-]{1,64})", text)
        if match is None:
            raise ValueError("not a cursor of this endpoint")
        return cls(match[1] == "d", float(match[2]), match[3])


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some decisions, newest first."""

    decisions: list[dict[str, Any]]
    next_cursor: str | None
    """None: that was all."""
    scanned: int
    """Records that were looked at."""
    problem: str | None = None
    """Why older ones cannot be shown."""


Wanted = Callable[[Row, bytes], bool]


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, and what was learned about it later."""

    record: DecisionRecord
    annotations: list[AnyRecord]
    complete: bool
    """False: looking for annotations took too long."""


class DecisionLog:
    """Reads one traffic folder."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock

    def page(self, wanted: Wanted, *, limit: int, after: Position | None = None) -> Page:
        """Raises: TrafficError: the folder cannot be read."""
        return _again(lambda: self._page(wanted, limit, after))

    def find(self, decision_id: str, at: Position | None = None) -> Decided | None:
        """Look for one decision, at once where its position is known. Raises: TrafficError."""
        return _again(lambda: self._find(decision_id, at))

    def _find(self, decision_id: str, at: Position | None) -> Decided | None:
        start = at._replace(decision_id="~") if at is not None else None
        needle = decision_id.encode()
        deadline_s = self._clock() + FIND_S
        for number, (position, payload) in enumerate(self._from(start, holding=needle)):
            if number % CHECK_EVERY == 0 and self._clock() > deadline_s:
                return None
            if needle in payload[:128] and position.decision_id == decision_id:
                record = _whole(payload)
                annotations, complete = self._annotations(record)
                return Decided(record=record, annotations=annotations, complete=complete)
        return None

    def _page(self, wanted: Wanted, limit: int, after: Position | None) -> Page:
        deadline_s = self._clock() + PAGE_S
        found: list[dict[str, Any]] = []
        scanned, last, more, problem = 0, after, False, None
        try:
            for position, payload in self._from(after):
                if len(found) == limit or (scanned % CHECK_EVERY == 0 and scanned and self._clock() > deadline_s):
                    more = True
                    break
                scanned += 1
                last = position
                row = _decoded(payload)
                if row is not None and wanted(row, payload):
                    found.append({**msgspec.to_builtins(row), "policy": row.policy, "position": position.encoded()})
        except compacted_days.ExtraMissing as exc:
            problem = str(exc)
        cursor = last.encoded() if more and last else None
        return Page(decisions=found, next_cursor=cursor, scanned=scanned, problem=problem)

    def _from(self, after: Position | None, *, holding: bytes = b"") -> Iterator[tuple[Position, bytes]]:
        """The log behind a position, without what was erased. `holding`: only the record with this id is wanted."""
        log = open_folder(self._folder)
        ledger, seen = ledger_of(log), survey(log)
        before_s = after.at_s if after is not None else float("inf")
        if after is None or not after.in_days:
            for ended_s, payload in newest_first(self._folder, seen.segments, before_s, keyring=log.keyring):
                if holding and holding not in payload[:128]:
                    continue
                position = Position(False, ended_s, _id_of(payload))
                behind = after is None or (ended_s, position.decision_id) < (after.at_s, after.decision_id)
                if behind and not _is_erased(payload, ledger):
                    yield position, payload
        for created_s, payload in compacted_days.newest_first(seen.parts, log.keyring, before_s, holding=holding):
            position = Position(True, created_s, _id_of(payload))
            if (after is None or _is_behind(position, payload, after)) and not _is_erased(payload, ledger):
                yield position, payload

    def _annotations(self, record: DecisionRecord) -> tuple[list[AnyRecord], bool]:
        """Feedback of the record's own tenant, and what the other model answered; oldest first."""
        deadline_s = self._clock() + PAGE_S
        needle = record.decision_id.encode()
        log = open_folder(self._folder)
        seen, keyring = survey(log), log.keyring
        found: list[AnyRecord] = []
        compacted = compacted_days.annotations_of(seen.parts, keyring, record.decision_id, record.created_s)
        fresh = annotations_since(self._folder, seen.segments, record.created_s, keyring=keyring)
        complete = True
        for source in (compacted, fresh):
            for number, payload in enumerate(source):
                if number % CHECK_EVERY == 0 and self._clock() > deadline_s:
                    complete = False
                    break
                if needle in payload:
                    found += _annotation(payload, record)
        return sorted(found, key=lambda each: each.created_s), complete


def _again(read: Callable[[], T]) -> T:
    """Once more when a compaction has moved what was being read. Raises: TrafficError."""
    for _ in range(MAX_ATTEMPTS):
        try:
            return read()
        except FileNotFoundError:
            continue
        except SealError as exc:
            raise TrafficError(str(exc)) from exc
    raise TrafficError("the log changes faster than it can be read; try again")


def _decoded(payload: bytes) -> Row | None:
    try:
        return _row(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _is_erased(payload: bytes, ledger: Ledger) -> bool:
    return bool(ledger) and ledger.covers(_whole(payload))


def _whole(payload: bytes) -> DecisionRecord:
    """Raises: TrafficError: of another release."""
    try:
        return decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise TrafficError(f"this release cannot read the record: {exc}") from exc


def _annotation(payload: bytes, record: DecisionRecord) -> list[AnyRecord]:
    """One on this record by its own tenant, or none."""
    try:
        annotation = decode_any(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    belongs = (annotation.decision_id, annotation.tenant) == (record.decision_id, record.tenant)
    return [annotation] if belongs else []


class _Identity(msgspec.Struct):
    decision_id: str = ""


_identity = msgspec.json.Decoder(_Identity).decode


def _id_of(payload: bytes) -> str:
    try:
        return _identity(payload).decision_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _is_behind(position: Position, payload: bytes, after: Position) -> bool:
    """Of a compacted record. A position in the segments counts ends of requests, also of what was compacted since."""
    at_s = position.at_s
    if not after.in_days:
        row = _decoded(payload)
        at_s += row.latency_s if row is not None else 0.0
    return (at_s, position.decision_id) < (after.at_s, after.decision_id)
