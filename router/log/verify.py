"""`locum log verify`: every line of the log is read, and every file is compared with its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from policies.traffic.reader import Damage, Place, Reading, read
from policies.traffic.stores import Ranged
from policies.traffic.survey import Part, survey

_BLOCK_BYTES = 4 * 2**20


def verify(folder: Path, progress: Callable[[str, int], None]) -> dict[str, Any]:
    """What is wrong with a traffic folder, as JSON; `sound` says whether nothing is.

    Args:
        progress: called with the file that is being read, and how many records were read so far.
    Raises:
        TrafficError: the folder cannot be read at all.
    """
    reading = read(folder)
    for number, (stored, _) in enumerate(reading.placed()):
        if number % 4096 == 0:
            progress(stored.place.file, number)
    seen = survey(reading.log)
    damage = reading.damage + _changed_files(seen.parts)
    firsts = _firsts(folder, {each.decision_id for each in reading.doubled})
    return {
        "sound": not damage and not reading.doubled,
        "decisions": reading.counts.decisions,
        "feedback": reading.counts.feedback,
        "shadows": reading.counts.shadows,
        "forgotten": reading.counts.forgotten,
        "segments": len(seen.segments),
        "compacted_files": sum(len(part.manifest.files) for part in seen.parts),
        "unfinished_lines": reading.counts.unfinished,
        "damaged": [{"file": each.place.file, "line": each.place.line, "cause": each.cause} for each in damage],
        "doubled": [
            {
                "file": each.place.file,
                "line": each.place.line,
                "decision_id": each.decision_id,
                "first": str(firsts[each.decision_id]) if each.decision_id in firsts else None,
            }
            for each in reading.doubled
        ],
    }


def _changed_files(parts: list[Part]) -> list[Damage]:
    """Compacted files that are not what their manifest says."""
    changed = []
    for part in parts:
        for file in part.manifest.files:
            try:
                sha256 = _sha256(part.store.ranged(file.name))
            except FileNotFoundError:
                continue  # the reading has reported it, or a compaction has replaced it just now
            if sha256 != file.sha256:
                place = Place(part.place(file), 0)
                changed.append(Damage(place, "the file is not the one of the manifest (sha256)"))
    return changed


def _sha256(ranged: Ranged) -> str:
    digest = hashlib.sha256()
    for start in range(0, ranged.size, _BLOCK_BYTES):
        digest.update(ranged.read_at(start, min(start + _BLOCK_BYTES, ranged.size)))
    return digest.hexdigest()


def _firsts(folder: Path, wanted: set[str]) -> dict[str, Place]:
    """Where some ids stand for the first time."""
    places: dict[str, Place] = {}
    if wanted:
        for stored, record in Reading(folder).placed():
            if record.decision_id in wanted:
                places.setdefault(record.decision_id, stored.place)
    return places
