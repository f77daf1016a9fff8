"""Where a run keeps what its stages made, and how nobody ever sees half of it.

    <work_dir>/.lock                                 one run at a time
    <work_dir>/<recipe>/snapshot.json                what the run reads: the log's files, the evaluation set's hash
    <work_dir>/<recipe>/<stage>/<12 hex>/            finished: stage.json and the stage's files
    <work_dir>/<recipe>/<stage>/<12 hex>.partial/    under way, or what an interrupted run left: it goes on there
    <work_dir>/<recipe>/funnel.{html,json}

The 12 digits are the content address. `stage.json` is written last and names every file with its hash; then the
folder gets its final name, so a finished folder is complete whatever happened to the process or the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from policies.durable import UNFINISHED_SUFFIX, sha256_of, sync, write_atomically
from trainer.stage import Json, StageError

if TYPE_CHECKING:
    from trainer.recipe import Recipe

STAGE_FILE = "stage.json"
PARTIAL = UNFINISHED_SUFFIX
"""Of all that is not whole: a stage's folder, and what stages and `write_atomically` have under way in it."""
LOCK = ".lock"
SCHEMA_VERSION = 1
ADDRESS_DIGITS = 12
UNFINISHED = re.compile(rf"[0-9a-f]{{{ADDRESS_DIGITS}}}{re.escape(PARTIAL)}")


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str
    bytes: int


class StageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`stage.json`: what a finished stage did."""

    schema: int = SCHEMA_VERSION
    stage: str
    version: int
    address: str
    """All 64 digits; the folder's name has the first 12."""
    inputs: dict[str, str]
    """Stage -> content address."""
    summary: dict[str, Any]
    """A `trainer.stage.Summary`: msgspec knows no recursive types."""
    seconds: float
    """Of the run that finished it; work that an interrupted run left behind is not counted."""
    resumed: bool
    finished_s: float
    """Unix time."""
    files: dict[str, FileEntry]
    """Path relative to the folder, `stage.json` excepted."""


class Busy(StageError):
    """Another run works in this folder."""


def content_address(name: str, version: int, key: Json, inputs: Mapping[str, str]) -> str:
    """64 hex digits that change with anything a stage's output depends on."""
    parts = [name, version, key, dict(sorted(inputs.items()))]
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def run_folder_of(recipe: Recipe) -> Path:
    return Path(recipe.work_dir) / recipe.name


def stage_folder(run_folder: Path, stage: str, address: str) -> Path:
    return run_folder / stage / address[:ADDRESS_DIGITS]


def partial_of(folder: Path) -> Path:
    return folder.with_name(folder.name + PARTIAL)


def read_record(folder: Path) -> StageRecord | None:
    """None when the folder is not that of a finished stage. Raises: StageError: its record cannot be read."""
    try:
        return msgspec.json.decode((folder / STAGE_FILE).read_bytes(), type=StageRecord)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise StageError(
            f"{folder / STAGE_FILE} is damaged ({exc}); run again with --from {folder.parent.name}"
        ) from exc


def finish(partial: Path, folder: Path, record: StageRecord) -> None:
    """Make everything durable, write the record last, give the folder its final name. Raises: OSError."""
    for path in sorted(partial.rglob("*")):
        sync(path)
    write_atomically(partial / STAGE_FILE, msgspec.json.format(msgspec.json.encode(record), indent=1))
    partial.rename(folder)
    sync(folder.parent)


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """Every file below `folder` but its record, symbolic links followed. Raises: OSError."""
    return {
        str(path.relative_to(folder)): FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / STAGE_FILE
    }


def damage(folder: Path, record: StageRecord, *, rehash: bool) -> list[str]:
    """What of a finished stage's files is missing or changed, one line each; without `rehash` by size only."""
    problems = []
    for name, entry in record.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif (size := path.stat().st_size) != entry.bytes:
            problems.append(f"{path}: {size} bytes, was {entry.bytes}")
        elif rehash and sha256_of(path) != entry.sha256:
            problems.append(f"{path}: its content changed")
    if rehash:
        known = {*record.files, STAGE_FILE}
        extra = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        problems += [f"{folder / name}: was not there when the stage finished" for name in extra if name not in known]
    return problems


def discard(folder: Path) -> None:
    """Remove a stage's output, finished or not; a crash in between leaves nothing that looks finished."""
    for path in (folder, partial_of(folder)):
        if path.exists():
            (path / STAGE_FILE).unlink(missing_ok=True)
            shutil.rmtree(path)


def remove_torn(folder: Path) -> None:
    """Remove what a killed run was writing in a stage's unfinished folder: all that ends in PARTIAL.

    Whole things never have such names, so nothing that can be resumed is lost. Only under the lock: see `exclusive`.
    """
    for path in sorted(folder.rglob("*")):
        if not path.name.endswith(PARTIAL):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove the unfinished folders of a stage's other addresses, once it has finished in `folder`; returns them.

    They are what killed runs of an earlier recipe left, checkpoints included. Only under the lock: see `exclusive`.
    """
    found = [
        path
        for path in sorted(folder.parent.glob(f"*{PARTIAL}"))
        if path.is_dir() and UNFINISHED.fullmatch(path.name) and path != partial_of(folder)
    ]
    for path in found:
        shutil.rmtree(path)
    return found


@contextlib.contextmanager
def exclusive(work_dir: Path) -> Iterator[None]:
    """One run at a time in a work folder; the lock goes with the process, so a kill leaves none behind.

    Raises:
        Busy
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    with (work_dir / LOCK).open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise Busy(f"work_dir: another run (process {holder}) works in {work_dir}; wait for it") from exc
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
