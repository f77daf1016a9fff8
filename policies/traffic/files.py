"""Compacted files as file objects: decrypted where they are encrypted, by ranges where they are in a store.

DuckDB reaches them as `locum://<part>/<name>` through a file system that is registered with the connection, so that it
fetches only the columns and row groups that a query needs, and no plain text of an encrypted log is ever on a disk.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO

from policies.traffic.compacted import CompactedFile
from policies.traffic.sealing import Keyring, SealedReader, SealedWriter
from policies.traffic.stores import Ranged, Store, StoreError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SCHEME = "locum"
_OPEN_FILES = 64
_ALWAYS = datetime(2000, 1, 1, tzinfo=UTC)
"""Files never change: their time only has to be the same each time."""


class RangeFile(io.RawIOBase):
    """A file to read. The position is each thread's own: DuckDB seeks and reads from several threads at once."""

    def __init__(self, ranged: Ranged) -> None:
        super().__init__()
        self._ranged = ranged
        self._local = threading.local()

    @property
    def size(self) -> int:
        return self._ranged.size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return getattr(self._local, "position", 0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._ranged.size}[whence]
        self._local.position = max(0, start + offset)
        return self.tell()

    def read(self, size: int | None = -1) -> bytes:
        start = self.tell()
        end = self._ranged.size if size is None or size < 0 else min(start + size, self._ranged.size)
        data = self._ranged.read_at(start, end) if end > start else b""
        self._local.position = start + len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def open_compacted(store: Store, file: CompactedFile, keyring: Keyring | None) -> BinaryIO:
    """The Parquet bytes of a compacted file. Raises: FileNotFoundError, OSError, SealError, Tampered."""
    path = store.path(file.name)
    if path is not None and not file.sealed:
        return path.open("rb")
    return RangeFile(_plain(store, file, keyring))  # type: ignore[return-value]  # all of BinaryIO that readers use


def _plain(store: Store, file: CompactedFile, keyring: Keyring | None) -> Ranged:
    ranged = store.ranged(file.name)
    if not file.sealed:
        return ranged
    return SealedReader(ranged.read_at, ranged.size, keyring, f"{store.label}/{file.name}")


class HashedWriter(io.RawIOBase):
    """Passes on what is written and knows its hash and its length."""

    def __init__(self, target: BinaryIO) -> None:
        super().__init__()
        self._target = target
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size_bytes

    def write(self, data: Any) -> int:
        data = bytes(data)
        self._target.write(data)
        self._digest.update(data)
        self.size_bytes += len(data)
        return len(data)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


@contextmanager
def create_compacted(store: Store, name: str, keyring: Keyring | None) -> Iterator[tuple[BinaryIO, HashedWriter]]:
    """A file to write Parquet to, and what it is as it is stored; complete under its name at the end."""
    with store.writer(name) as file:
        hashed = HashedWriter(file)
        if keyring is None:
            yield hashed, hashed  # type: ignore[misc]  # all of BinaryIO that writers use
        else:
            sealed = SealedWriter(hashed, keyring)  # type: ignore[arg-type]
            yield sealed, hashed  # type: ignore[misc]
            sealed.finish()


def url_of(part: int, name: str) -> str:
    return f"{SCHEME}://{part}/{name}"


def file_system(stores: list[Store], keyring: Keyring | None, sealed: frozenset[str]) -> AbstractFileSystem:
    """What DuckDB reads `locum://` with. A part is the number of a store.

    Args:
        sealed: names of the files that are encrypted.
    Raises:
        StoreError: fsspec is not installed.
    """
    try:
        from fsspec import AbstractFileSystem  # noqa: PLC0415 - not installed with the gateway
    except ImportError as exc:
        raise StoreError("a store, or an encrypted log, needs fsspec: pip install 'locum[loop]'") from exc

    @lru_cache(maxsize=_OPEN_FILES)
    def opened(path: str) -> Ranged:
        part, _, name = path.removeprefix(f"{SCHEME}://").partition("/")
        store = stores[int(part)]
        ranged = store.ranged(name)
        return SealedReader(ranged.read_at, ranged.size, keyring, f"{store.label}/{name}") if name in sealed else ranged

    class LogFiles(AbstractFileSystem):  # type: ignore[misc]
        """Only what DuckDB asks for."""

        protocol = SCHEME
        cachable = False

        def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
            return RangeFile(self._ranged(path))

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            return {"name": path, "size": self._ranged(path).size, "type": "file"}

        def exists(self, path: str, **_: Any) -> bool:
            return True

        def modified(self, path: str) -> datetime:
            return _ALWAYS

        def glob(self, path: str, **_: Any) -> list[str]:
            return [path]

        def _ranged(self, path: str) -> Ranged:
            return opened(path)

    return LogFiles()
