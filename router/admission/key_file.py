"""The file with the hashes of the API keys: written by `locum keys`, read again by running gateways when it changes."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from policies.durable import sync
from router.admission.keys import ApiKey

FORMAT = 1


class KeyFileError(ValueError):
    """The file cannot be used. The message names the file and the field, never a hash."""


class KeyDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file's content, as JSON."""

    format: int
    keys: tuple[ApiKey, ...]


Stamp = tuple[int, int, int]
"""Inode, time of change and size: another one means another content, since writers replace the file."""


class KeyFile:
    """Keys on disk. Readers need no lock: a writer replaces the file as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> Stamp | None:
        """None when there is no file."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> tuple[ApiKey, ...]:
        """Raises: KeyFileError; FileNotFoundError and other OSErrors as they are."""
        data = self.path.read_bytes()
        try:
            document = msgspec.json.decode(data, type=KeyDocument)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise KeyFileError(f"{self.path}: not a file of keys: {exc}") from exc
        if document.format != FORMAT:
            raise KeyFileError(f"{self.path}: format {document.format} is not {FORMAT}: written by another version")
        if len({key.sha256 for key in document.keys}) < len(document.keys):
            raise KeyFileError(f"{self.path}: two entries have the same hash; remove one")
        return document.keys

    @contextmanager
    def editing(self) -> Iterator[list[ApiKey]]:
        """The keys, to be changed in place; written when the block ends without an error. One writer at a time.

        Raises: KeyFileError, OSError.
        """
        with self._lock_path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                keys = list(self.read())
            except FileNotFoundError:
                keys = []
            before = tuple(keys)
            yield keys
            if tuple(keys) != before:
                self._write(tuple(keys))

    @property
    def _lock_path(self) -> Path:
        """Beside the file, which itself is replaced by every writer."""
        return self.path.with_name(f".{self.path.name}.lock")

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        """Whole or not at all, also when the power goes; 0600 from the first byte on (mkstemp)."""
        content = msgspec.json.format(msgspec.json.encode(KeyDocument(format=FORMAT, keys=keys)), indent=2) + b"\n"
        descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                self._keep_owner(file.fileno())
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync(self.path.parent)

    def _keep_owner(self, descriptor: int) -> None:
        """A root that edits the keys must not take them from the user that the gateway runs as."""
        if os.geteuid() == 0 and self.path.exists():
            owner = self.path.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
