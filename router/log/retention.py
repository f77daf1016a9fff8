"""Retention: what is older than a moment goes, with the feedback on it.

Compacted files of days that are over by then are dropped as they are; the file of the day in which the moment lies is
written again without its older rows. Feedback and shadow answers go with their record, however young they are, and
those whose record is not there any more when they are old enough themselves.
"""

# ruff: noqa: S608 - nothing in these statements comes from a user

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from policies.record import AnyRecord, DecisionRecord
from policies.traffic.compacted import CompactedFile
from policies.traffic.folder import LogFolder
from policies.traffic.reader import Reading, TrafficError
from policies.traffic.stores import Conflict
from policies.traffic.survey import Part, as_traffic_errors, open_folder, survey
from router.log.segment_rewriting import Doomed, rewrite_segments
from router.log.workspace import LOCK_WAIT_S, Progress, Workspace, publish, sole_writer, sweep

MAX_CONFLICTS = 5


@dataclass
class Pruned:
    """The report."""

    before_s: float
    """Unix time: records from before it are gone."""
    removed: Counter[str] = field(default_factory=Counter)
    """Records, by kind; of compacted annotations (`feedback`) of both kinds together."""
    dropped: list[str] = field(default_factory=list)
    """Compacted files of which nothing was left."""
    rewritten: list[str] = field(default_factory=list)
    segments: list[str] = field(default_factory=list)
    """That were rewritten or removed."""
    in_use: list[str] = field(default_factory=list)
    """Segments that a gateway is writing; what is old in them goes when it has begun another one."""


def prune(
    folder: Path,
    before_s: float,
    *,
    progress: Progress,
    memory_limit: str = "2GB",
    threads: int | None = None,
    lock_wait_s: float = LOCK_WAIT_S,
    now: Callable[[], float] = time.time,
) -> Pruned:
    """Remove what is older than a moment. Gateways may write and others may read meanwhile.

    Raises:
        TrafficError: the log or its keys cannot be used, or a compaction does not end. OSError.
    """
    log = open_folder(folder)
    done = Pruned(before_s)
    with as_traffic_errors(folder):
        _ = log.keyring
    with sole_writer(log, wait_s=lock_wait_s, everywhere=True), Workspace.opened(log, memory_limit, threads) as space:
        progress("looking for old records")
        old = _old_ids(space, log, before_s)
        progress("removing them")
        doomed = Doomed(lambda record: _is_old(record, before_s, old))
        segments = rewrite_segments(folder, log.segments(), log.keyring, doomed)
        done.removed += segments.removed
        done.segments, done.in_use = segments.segments, segments.in_use
        space.take_ids(old)
        for label in [part.store.label for part in survey(log).parts]:
            _prune_part(space, label, done, now)
    return done


def day_of(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%d")


def _is_old(record: AnyRecord, before_s: float, old: set[str]) -> bool:
    if record.created_s < before_s:
        return True
    return not isinstance(record, DecisionRecord) and record.decision_id in old


def _old_ids(space: Workspace, log: LogFolder, before_s: float) -> set[str]:
    """Of the decision records that go, wherever they are."""
    reading = Reading(
        log.path, "decisions", compacted=lambda part: False, segments=tuple(log.segments()), unfiltered=True
    )
    old = {record.decision_id for record in reading if record.created_s < before_s}
    last = day_of(before_s)
    for part in survey(log).parts:
        source = space.sources(part).select(lambda file: file.kind == "decisions" and file.day <= last)
        if source is not None:
            rows = space.connection.execute(f"SELECT decision_id FROM {source} WHERE created_s < {before_s!r}")
            while batch := rows.fetchmany(10_000):
                old.update(row[0] for row in batch)
    return old


def _prune_part(space: Workspace, label: str, done: Pruned, now: Callable[[], float]) -> None:
    for _ in range(MAX_CONFLICTS):
        part = next(each for each in survey(space.log).parts if each.store.label == label)
        report = Pruned(done.before_s)
        kept = [after for file in part.manifest.files if (after := _without_old(space, part, file, report)) is not None]
        if kept == list(part.manifest.files):
            return
        try:
            published = publish(part, kept, segments=part.manifest.segments, now_s=now())
        except Conflict:
            continue
        sweep(space.log, published, now_s=now())
        done.removed += report.removed
        done.dropped += report.dropped
        done.rewritten += report.rewritten
        return
    raise TrafficError(f"{label} is changed by others all the time; run the command again")


def _without_old(space: Workspace, part: Part, file: CompactedFile, report: Pruned) -> CompactedFile | None:
    last = day_of(report.before_s)
    if file.kind == "decisions" and file.day > last:
        return file
    condition = f"created_s < {report.before_s!r}"
    if file.kind == "feedback":
        condition += " OR decision_id IN (SELECT decision_id FROM doomed)"
    after = None if file.day < last else space.rewrite(part, file, condition)
    if after is None:
        report.dropped.append(part.place(file))
    elif after != file:
        report.rewritten.append(part.place(file))
    report.removed[file.kind] += file.rows - (after.rows if after is not None else 0)
    return after
