"""Where compacted files are kept: a folder, or a prefix in any store that fsspec knows.

Both kinds give the same guarantees to those who read, by different means:

- A folder has `manifest.json`, replaced by renaming.
- A store has no renaming. There every manifest is an object of its own, `manifest-0000000042.json`, put only if it is
  not there (S3: `If-None-Match`, GCS: `ifGenerationMatch`, Azure: no overwrite); the highest number counts. Of two
  compactions that began with the same manifest one gets a `Conflict` and loses nothing but its time. A store, or an
  fsspec package, that cannot put conditionally still works; then no two processes may compact the same instance at
  the same moment, which is what happens by itself as long as no traffic folder is copied with its storage.json.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from policies.durable import sync
from policies.traffic.compacted import (
    MANIFEST,
    ManifestError,
    TrafficManifest,
    decode_manifest,
    encode_manifest,
    write_manifest,
)

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

KEPT_MANIFESTS = 8
"""Older ones are removed: a reader that has just listed them finds its own."""
PUBLISHING = "publishing"
"""Held for the moment in which a folder's manifest is compared and replaced."""
_NUMBERED = re.compile(r"manifest-([0-9]{10})\.json")
PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs",
    "adl": "adlfs", "oss": "ossfs", "oci": "ocifs", "hdfs": "pyarrow", "sftp": "paramiko", "ssh": "paramiko",
    "smb": "smbprotocol", "webdav": "webdav4", "hf": "huggingface_hub", "r2": "s3fs",
}  # fmt: skip


class StoreError(Exception):
    """A store cannot be used as it is configured. The message names the key or the package."""


class Conflict(Exception):
    """Somebody else has published a manifest since this one was read; nothing was changed."""


class Ranged(Protocol):
    """A file that is read at any place, by several threads."""

    @property
    def size(self) -> int: ...

    def read_at(self, start: int, end: int) -> bytes: ...


class Store(Protocol):
    """A flat folder of immutable files and the manifest that says which of them count."""

    label: str
    """What messages call it; a file's name follows behind a slash."""

    def manifest(self) -> TrafficManifest:
        """Raises: ManifestError, OSError."""
        ...

    def publish(self, manifest: TrafficManifest, before: TrafficManifest) -> None:
        """Make a manifest the one that counts. Raises: Conflict: `before` was not the last one. OSError."""
        ...

    def names(self) -> list[str]: ...

    def get(self, name: str) -> bytes: ...

    def put(self, name: str, data: bytes) -> None:
        """Whole or not at all."""
        ...

    def ranged(self, name: str) -> Ranged:
        """Raises: FileNotFoundError, OSError."""
        ...

    def writer(self, name: str) -> Any:
        """A context manager for a file to write to; complete and durable under its name when it has ended well."""
        ...

    def remove(self, name: str) -> None:
        """No error when it is gone."""
        ...

    def path(self, name: str) -> Path | None:
        """Of a file on this machine."""
        ...

    def folders(self) -> list[str]: ...

    def inside(self, name: str, label: str | None = None) -> Store: ...


class FolderStore:
    """A folder of this machine, or of a file system that is mounted. It is made when it is first written to."""

    def __init__(self, root: Path, label: str) -> None:
        self.root = root
        self.label = label

    def manifest(self) -> TrafficManifest:
        try:
            data = (self.root / MANIFEST).read_bytes()
        except FileNotFoundError:
            return TrafficManifest()
        return decode_manifest(data, str(self.root / MANIFEST))

    def publish(self, manifest: TrafficManifest, before: TrafficManifest) -> None:
        with (self.root / PUBLISHING).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.manifest().version != before.version:
                raise Conflict(self.label)
            write_manifest(self.root, manifest)

    def names(self) -> list[str]:
        with suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(self.root) if entry.is_file())
        return []

    def get(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        with self.writer(name) as file:
            file.write(data)

    def ranged(self, name: str) -> Ranged:
        return _FileRanges(self.root / name)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.root / f"{name}.tmp"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(self.root / name)
        sync(self.root)

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def path(self, name: str) -> Path | None:
        return (self.root / name).absolute()

    def folders(self) -> list[str]:
        with suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        return []

    def inside(self, name: str, label: str | None = None) -> FolderStore:
        return FolderStore(self.root / name, label or f"{self.label}/{name}")


class _FileRanges:
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size

    def read_at(self, start: int, end: int) -> bytes:
        return os.pread(self._file.fileno(), max(0, end - start), start)


class ObjectStore:
    """A prefix of a store behind fsspec."""

    def __init__(self, files: AbstractFileSystem, root: str, label: str) -> None:
        self._files = files
        self._root = root.rstrip("/")
        self.label = label

    def manifest(self) -> TrafficManifest:
        for _ in range(KEPT_MANIFESTS):
            numbers = self._numbers()
            if not numbers:
                return TrafficManifest()
            name = _numbered(numbers[-1])
            with suppress(FileNotFoundError):  # removed since it was listed, so there are newer ones
                return decode_manifest(self.get(name), f"{self.label}/{name}")
        raise ManifestError(f"{self.label} changes faster than it can be read")

    def publish(self, manifest: TrafficManifest, before: TrafficManifest) -> None:
        numbers = self._numbers()
        if (numbers[-1] if numbers else 0) != before.version:
            raise Conflict(self.label)
        try:
            with _told(self.label):
                self._files.pipe_file(self._at(_numbered(manifest.version)), encode_manifest(manifest), mode="create")
        except FileExistsError as exc:
            raise Conflict(self.label) from exc
        for number in numbers[: -KEPT_MANIFESTS + 1]:
            self.remove(_numbered(number))

    def _numbers(self) -> list[int]:
        found = (_NUMBERED.fullmatch(name) for name in self.names())
        return sorted(int(match[1]) for match in found if match)

    def names(self) -> list[str]:
        return [name for name, kind in self._listed() if kind == "file"]

    def folders(self) -> list[str]:
        return [name for name, kind in self._listed() if kind == "directory"]

    def _listed(self) -> list[tuple[str, str]]:
        self._files.invalidate_cache(self._root)
        try:
            with _told(self.label):
                entries = self._files.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        pairs = ((str(each["name"]).rstrip("/").rpartition("/")[2], str(each["type"])) for each in entries)
        return sorted(pair for pair in pairs if pair[0] and pair[0] != self._root.rpartition("/")[2])

    def get(self, name: str) -> bytes:
        with _told(self.label):
            return bytes(self._files.cat_file(self._at(name)))

    def put(self, name: str, data: bytes) -> None:
        with _told(self.label):
            self._files.pipe_file(self._at(name), data)

    def ranged(self, name: str) -> Ranged:
        with _told(self.label):
            return _ObjectRanges(self._files, self._at(name), self.label)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        """An object appears when it is closed. One that failed on the way is named by no manifest."""
        with _told(self.label):
            self._files.makedirs(self._root, exist_ok=True)
            file = self._files.open(self._at(name), "wb")
        try:
            yield file
        except BaseException:
            with suppress(Exception):  # the first error counts
                file.close()
                self._files.rm_file(self._at(name))
            raise
        with _told(self.label):
            file.close()

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError), _told(self.label):
            self._files.rm_file(self._at(name))

    def path(self, name: str) -> Path | None:
        return None

    def inside(self, name: str, label: str | None = None) -> ObjectStore:
        return ObjectStore(self._files, self._at(name), label or f"{self.label}/{name}")

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


class _ObjectRanges:
    """Each read is one request for its range: nothing is shared between threads."""

    def __init__(self, files: AbstractFileSystem, path: str, label: str) -> None:
        self._files, self._path, self._label = files, path, label
        self.size = int(files.size(path))

    def read_at(self, start: int, end: int) -> bytes:
        with _told(self._label):
            return bytes(self._files.cat_file(self._path, start=start, end=min(end, self.size)))


@contextmanager
def _told(label: str) -> Iterator[None]:
    """What a store's package raises as an OSError that names the store. Packages have error trees of their own."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except Exception as exc:
        raise OSError(f"{label}: {type(exc).__name__}: {str(exc)[:500]}") from exc


def _numbered(number: int) -> str:
    return f"manifest-{number:010d}.json"


def open_store(
    url: str,
    options: Mapping[str, Any],
    secret_env: Mapping[str, str],
    environ: Mapping[str, str] = os.environ,
) -> Store:
    """The store behind a URL. Opens no connection yet.

    Args:
        options: of the fsspec package.
        secret_env: option -> environment variable that holds its value.
    Raises:
        StoreError: unknown scheme, a package is missing, an option is refused, a variable is unset.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderStore(Path(parts.path), url.rstrip("/"))
    given = dict(options)
    for option, name in secret_env.items():
        if not environ.get(name):
            raise StoreError(f"log.store_secret_env.{option}: the environment variable {name} is not set")
        given[option] = environ[name]
    try:
        import fsspec  # noqa: PLC0415 - not installed with the gateway
    except ImportError as exc:
        raise StoreError("log.store needs fsspec: pip install 'locum[loop]'") from exc
    try:
        files, root = fsspec.core.url_to_fs(url, **given)
    except ImportError as exc:
        package = PACKAGES.get(parts.scheme, "the fsspec package of this store")
        raise StoreError(f"log.store: {parts.scheme}:// needs {package}: pip install {package}") from exc
    except ValueError as exc:
        raise StoreError(f"log.store: {parts.scheme}:// cannot be used: {exc}") from exc
    except TypeError as exc:
        raise StoreError(f"log.store_options: {parts.scheme}:// does not take them: {exc}") from exc
    return ObjectStore(files, root, url.rstrip("/"))
