"""What a document would have decided on the requests that were logged last, beside the one in force."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from policies.base import RequestFeatures, Signal
from policies.chain import PolicyChain, with_scores
from policies.record import DecisionRecord, decode, is_annotation
from policies.traffic.folder import keyring_of
from policies.traffic.segments import SUFFIX, read_segment

MAX_RECORDS = 10_000
MAX_BYTES = 64 * 2**20
"""Of segments that are read for it, newest first; the last one may exceed it."""
REQUEST = "request"
"""The policy of a decision that the client made: no document changes that."""


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Both documents on the same features. Drafts are not judged again: a cascade's part is not in here."""

    records: int
    """Logged requests that were decided again."""
    changed: int
    """Of them, those that would go to another route."""
    teacher_share_before: float | None
    teacher_share_after: float | None
    moves: dict[str, int]
    """`student -> teacher: low_confidence` -> how many, by the reason of the new decision."""
    without_text: int
    """Of the records, those captured below `full`: policies that read the question abstain on them, unless the record
    has what their artefact said of it."""


async def effect_on(folder: Path, before: PolicyChain, after: PolicyChain, *, limit: int) -> Effect:
    """Decide the last `limit` logged requests by both chains, off the event loop. Raises: OSError."""
    return await asyncio.to_thread(lambda: asyncio.run(_effect(folder, before, after, min(limit, MAX_RECORDS))))


async def _effect(folder: Path, before: PolicyChain, after: PolicyChain, limit: int) -> Effect:
    moves: Counter[str] = Counter()
    teacher_before = teacher_after = changed = without_text = count = 0
    for record in last_decisions(folder, limit):
        assert record.features is not None  # noqa: S101 - `last_decisions` passes over records without
        features = with_scores(record.features, record.votes)
        old = (await before.evaluate(features, _unavailable)).decision
        new = (await after.evaluate(features, _unavailable)).decision
        count += 1
        without_text += record.capture != "full"
        teacher_before += old.route == "teacher"
        teacher_after += new.route == "teacher"
        if old.route != new.route:
            changed += 1
            moves[f"{old.route} -> {new.route}: {new.reason}"] += 1
    return Effect(
        records=count,
        changed=changed,
        teacher_share_before=teacher_before / count if count else None,
        teacher_share_after=teacher_after / count if count else None,
        moves=dict(moves.most_common()),
        without_text=without_text,
    )


def last_decisions(folder: Path, limit: int) -> Iterator[DecisionRecord]:
    """The newest records with features that no client decided itself, from segments, in no order. Raises: OSError."""
    found = 0
    keyring = keyring_of(folder)
    for path in newest_segments(folder):
        records = [record for record in map(_decision, read_segment(path, keyring)) if record is not None]
        for record in reversed(records):
            if found == limit:
                return
            found += 1
            yield record


def newest_segments(folder: Path) -> list[Path]:
    """The newest segments, newest first, as many as fit `MAX_BYTES`."""
    if not folder.is_dir():
        return []
    sized = sorted(
        ((path.stat().st_mtime, path.stat().st_size, path) for path in folder.iterdir() if path.suffix == SUFFIX),
        reverse=True,
    )
    chosen: list[Path] = []
    total_bytes = 0
    for _, size_bytes, path in sized:
        if total_bytes >= MAX_BYTES:
            break
        total_bytes += size_bytes
        chosen.append(path)
    return chosen


def _decision(payload: bytes) -> DecisionRecord | None:
    if is_annotation(payload):
        return None
    try:
        record = decode(payload)
    except msgspec.DecodeError:
        return None  # of another release; this is an estimate, `locum log verify` is the judge
    return record if record.features is not None and record.decision.policy != REQUEST else None


async def _unavailable(signal: Signal, features: RequestFeatures) -> RequestFeatures:
    """What was not measured then is not known now."""
    signals = features.signals
    missing = msgspec.structs.replace(signals, unavailable=(*signals.unavailable, signal))
    return msgspec.structs.replace(features, signals=missing)
