"""Which training runs have read records that were erased. Nothing of a run is changed: that is for people to decide."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from policies.traffic.reader import Reading
from policies.traffic.survey import TrafficError

SNAPSHOT = "snapshot"
_COLUMN = "decision_id"


def runs_that_used(runs: Path, ids: Collection[str]) -> list[str]:
    """Folders below `runs` with tables or snapshots that hold one of the ids.

    Raises: TrafficError: no such folder, or pyarrow is missing. OSError.
    """
    if not runs.is_dir():
        raise TrafficError(f"--runs {runs}: there is no such folder")
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415 - not installed with the gateway
    except ImportError as exc:
        raise TrafficError("looking through training runs needs pyarrow: pip install 'locum[loop]'") from exc
    wanted = frozenset(ids)
    folders = {path.parent for path in runs.rglob("*.parquet") if path.parent.name != "compacted"}
    used = {str(folder) for folder in folders if any(_holds(path, wanted) for path in folder.glob("*.parquet"))}
    for snapshot in runs.rglob(SNAPSHOT):
        if snapshot.is_dir() and any(record.decision_id in wanted for record in Reading(snapshot, unfiltered=True)):
            used.add(str(snapshot))
    return sorted(used)


def _holds(path: Path, ids: frozenset[str]) -> bool:
    import pyarrow.parquet  # noqa: PLC0415 - not installed with the gateway

    try:
        with path.open("rb") as opened:
            file = pyarrow.parquet.ParquetFile(opened)
            if _COLUMN not in file.schema_arrow.names:
                return False
            return any(
                not ids.isdisjoint(batch.column(_COLUMN).to_pylist()) for batch in file.iter_batches(columns=[_COLUMN])
            )
    except ValueError:  # not a Parquet file, or one that a run is writing
        return False
