"""The cache of prepared models: content-addressed, never half-written, safe for two runs at once.

    <cache>/downloads/   wheels on their way into a model; removed once it is assembled
    <cache>/models/      <name>-<first 12 digits of the sha256 of its source>, a file or a folder
    <cache>/locks/       one lock file a model

Beside every artefact lies `<artefact>.json`: the hashes of its files, and what the file system said about them when
they were last verified. A file whose size or time has changed since is hashed again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.durable import sha256_of, sync, write_atomically
from serving.errors import PreparationError

Progress = Callable[[str], None]

CACHE_VARIABLE = "LOCUM_CACHE"


def default_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """`$LOCUM_CACHE`, else `~/.cache/locum`."""
    configured = environ.get(CACHE_VARIABLE)
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "locum"


@dataclass(frozen=True)
class Artefact:
    """One prepared model: `path` is a file or a folder, `files` the sha256 of each file by its relative name."""

    path: Path
    files: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """Of the file; of a folder: of its sorted `sha256  name` lines."""
        if len(self.files) == 1 and self.path.is_file():
            return next(iter(self.files.values()))
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


class Store:
    """The folders of the cache and what may be done in them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def downloads(self) -> Path:
        return _made(self.root / "downloads")

    def model_path(self, name: str) -> Path:
        return _made(self.root / "models") / name

    @contextlib.contextmanager
    def locked(self, name: str, progress: Progress) -> Iterator[None]:
        """Only one run at a time prepares this model; the others wait, then find it ready."""
        with (_made(self.root / "locks") / f"{name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"{name}: another run is preparing it; waiting")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def find(self, path: Path, *, verify: bool = False) -> Artefact | None:
        """The artefact when it is whole; None when it is absent, truncated or altered.

        `verify` hashes every file; without it only those whose size or time has changed since the last time.
        """
        try:
            record = json.loads(_record_path(path).read_bytes())
            files: dict[str, dict[str, Any]] = record["files"]
            changed = False
            for name, entry in files.items():
                file = path / name if path.is_dir() else path
                seen = _fingerprint(file)
                if verify or seen != entry["fingerprint"]:
                    if sha256_of(file) != entry["sha256"]:
                        return None
                    entry["fingerprint"], changed = seen, True
            if not files:
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if changed:
            write_atomically(_record_path(path), json.dumps(record, indent=1).encode())
        return Artefact(path, {name: entry["sha256"] for name, entry in files.items()})

    def publish(self, temporary: Path, path: Path, facts: Mapping[str, Any]) -> Artefact:
        """Move a finished file or folder to its place: contents first, then the record that makes it count."""
        names = [str(p.relative_to(temporary)) for p in sorted(temporary.rglob("*")) if p.is_file()]
        hashed = {name: sha256_of(temporary / name) for name in names}
        if temporary.is_file():
            hashed = {path.name: sha256_of(temporary)}
        for name in names or [""]:
            sync(temporary / name if name else temporary)
        remove(_record_path(path))
        remove(path)
        temporary.rename(path)
        sync(path.parent)
        files = {
            name: {"sha256": digest, "fingerprint": _fingerprint(path / name if path.is_dir() else path)}
            for name, digest in hashed.items()
        }
        write_atomically(_record_path(path), json.dumps({**facts, "files": files}, indent=1).encode())
        return Artefact(path, hashed)

    def require_space(self, needed_bytes: int, what: str) -> None:
        """Raises: PreparationError: the disk of the cache has less than that free."""
        free_bytes = shutil.disk_usage(_made(self.root)).free
        if free_bytes < needed_bytes:
            raise PreparationError(
                f"{what} needs {needed_bytes / 1e9:.1f} GB below {self.root}, but only {free_bytes / 1e9:.1f} GB are "
                f"free; make room, or set {CACHE_VARIABLE} to a folder on another disk"
            )


def remove(path: Path) -> None:
    """A file or a whole folder; nothing when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise PreparationError(
            f"the cache folder {folder} cannot be made ({exc.strerror}); set {CACHE_VARIABLE} to a folder that can"
        ) from exc
    return folder


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _fingerprint(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]
