"""Takes out of compacted files what tombstones cover."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from policies.traffic.compacted import CompactedFile
from policies.traffic.reader import Damage, Reading
from policies.traffic.survey import Part
from policies.traffic.tombstones import Ledger
from router.log.segment_rewriting import kind_of
from router.log.workspace import Workspace, publish, sweep


class Cleaned(NamedTuple):
    """What was done to a part."""

    part: Part
    removed: Counter[str]
    """Records, by kind."""
    files: list[str]
    """That were rewritten or dropped."""
    waiting: list[str]
    """Replaced files that could not be removed yet, because a query is reading them."""
    damage: list[Damage]
    """What could not be read, so that nobody knows what it holds."""


def clean_part(space: Workspace, part: Part, ledger: Ledger, now_s: float) -> Cleaned:
    """Rewrite the files of a part that hold covered records, and remove the former ones at once.

    Raises: Conflict, OSError, TrafficError.
    """
    doomed: set[str] = set()
    holding: set[str] = set()
    label = part.store.label
    reading = Reading(space.log.path, compacted=lambda each: each.store.label == label, segments=(), unfiltered=True)
    removed: Counter[str] = Counter()
    for stored, record in reading.placed():
        if ledger.covers(record):
            removed[kind_of(record)] += 1
            doomed.add(record.decision_id)
            holding.add(stored.place.file)
    tombstones = ledger.names | set(part.manifest.tombstones)
    kept = _without(space, part, doomed, {file for file in part.manifest.files if part.place(file) in holding})
    after = publish(part, kept, segments=part.manifest.segments, tombstones=tombstones, now_s=now_s)
    waiting = sweep(space.log, after, now_s=now_s, at_once=True)
    return Cleaned(after, removed, sorted(holding), waiting, reading.damage)


def _without(space: Workspace, part: Part, ids: set[str], holding: set[CompactedFile]) -> list[CompactedFile]:
    space.take_ids(ids)
    kept = []
    for file in part.manifest.files:
        after = (
            space.rewrite(part, file, "decision_id IN (SELECT decision_id FROM doomed)") if file in holding else file
        )
        if after is not None:
            kept.append(after)
    return kept
