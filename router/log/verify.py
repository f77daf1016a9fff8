"""`locum log verify`: every line of the log is read, and every file is compared with its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from policies.compacted import FOLDER
from policies.traffic import Damage, Place, Reading, read, snapshot


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
    manifest, segments = snapshot(folder)
    damage = reading.damage + _changed_files(folder)
    firsts = _firsts(folder, {each.decision_id for each in reading.doubled})
    return {
        "sound": not damage and not reading.doubled,
        "decisions": reading.counts.decisions,
        "feedback": reading.counts.feedback,
        "shadows": reading.counts.shadows,
        "segments": len(segments),
        "compacted_files": len(manifest.files),
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


def _changed_files(folder: Path) -> list[Damage]:
    """Compacted files that are not what the manifest says."""
    changed = []
    for file in snapshot(folder)[0].files:
        try:
            with (folder / FOLDER / file.name).open("rb") as opened:
                sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        except FileNotFoundError:
            continue  # the reading has reported it, or a compaction has replaced it just now
        if sha256 != file.sha256:
            changed.append(
                Damage(Place(f"{FOLDER}/{file.name}", 0), "the file is not the one of the manifest (sha256)")
            )
    return changed


def _firsts(folder: Path, wanted: set[str]) -> dict[str, Place]:
    """Where some ids stand for the first time."""
    places: dict[str, Place] = {}
    if wanted:
        for stored, record in Reading(folder).placed():
            if record.decision_id in wanted:
                places.setdefault(record.decision_id, stored.place)
    return places
