"""A traffic folder with all that belongs to it: segments, compacted files here and in a store, keys, tombstones.

<folder>/*.seg               segments (policies/traffic/segments.py)
<folder>/compacted/          compacted files of this machine (policies/traffic/compacted.py)
<folder>/tombstones/         what must not come back (policies/traffic/tombstones.py)
<folder>/storage.json        where the rest is, written by the gateway from its configuration: so whoever has the
                             folder reads the whole log. It names environment variables and never holds a secret.

<store>/<instance>/          compacted files of one traffic folder; every folder has an instance of its own
<store>/tombstones/          of all of them
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from policies.durable import sync
from policies.traffic.compacted import FOLDER
from policies.traffic.sealing import Keyring
from policies.traffic.segments import SUFFIX
from policies.traffic.stores import FolderStore, Store, StoreError, open_store

STORAGE = "storage.json"
TOMBSTONES = "tombstones"
SCHEMA_VERSION = 1


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """`storage.json`."""

    schema: int = SCHEMA_VERSION
    store: str = ""
    """URL of the store; empty: compacted files stay in the folder."""
    store_options: dict[str, Any] = {}
    store_secret_env: dict[str, str] = {}
    instance: str = ""
    """The folder's name in the store; given once."""
    encryption_key_env: str | None = None
    subject_key_env: str | None = None


class LogFolder:
    """Opened by those who read, compact or erase. Opens nothing itself until it is asked."""

    def __init__(self, path: Path, environ: Mapping[str, str] = os.environ) -> None:
        """Raises: StoreError: storage.json is damaged."""
        self.path = path
        self.environ = environ
        self.storage = read_storage(path)

    @cached_property
    def keyring(self) -> Keyring | None:
        """Raises: SealError: the variable that is named is unset or holds no key."""
        name = self.storage.encryption_key_env
        return Keyring.from_environment(name, self.environ) if name else None

    @cached_property
    def local(self) -> FolderStore:
        return FolderStore(self.path / FOLDER, FOLDER)

    @cached_property
    def remote(self) -> Store | None:
        """The root of the store. Raises: StoreError."""
        storage = self.storage
        if not storage.store:
            return None
        return open_store(storage.store, storage.store_options, storage.store_secret_env, self.environ)

    @property
    def own(self) -> Store:
        """Where this folder's segments are compacted to. Raises: StoreError."""
        if self.remote is None:
            return self.local
        if not self.storage.instance:
            raise StoreError(f"{self.path / STORAGE} names a store but no instance; write one into it")
        return self.remote.inside(self.storage.instance)

    def parts(self) -> list[Store]:
        """Everything compacted that belongs to the log: this folder's, and of the store every instance's.

        Raises: StoreError, OSError.
        """
        if self.remote is None:
            return [self.local]
        return [self.local, *(self.remote.inside(name) for name in self.remote.folders() if name != TOMBSTONES)]

    def ledgers(self) -> list[Store]:
        """Where tombstones are kept; a new one goes to the last. Raises: StoreError."""
        here: list[Store] = [FolderStore(self.path / TOMBSTONES, TOMBSTONES)]
        return here if self.remote is None else [*here, self.remote.inside(TOMBSTONES)]

    def segments(self) -> list[str]:
        """Names of all segments that are there, oldest first. Raises: OSError."""
        return sorted(entry.name for entry in os.scandir(self.path) if entry.name.endswith(SUFFIX))


def read_storage(folder: Path) -> Storage:
    """What storage.json says; without one everything is in the folder. Raises: StoreError."""
    path = folder / STORAGE
    try:
        storage = msgspec.json.decode(path.read_bytes(), type=Storage)
    except (FileNotFoundError, NotADirectoryError):
        return Storage()
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise StoreError(f"{path} is damaged: {exc}; start the gateway again, which writes it anew") from exc
    if storage.schema > SCHEMA_VERSION:
        raise StoreError(f"{path} was written by a newer version of Locum (schema {storage.schema})")
    return storage


def describe(folder: Path, wanted: Storage) -> Storage:
    """Write storage.json, unless it says the same already; what it says then. The instance is kept.

    Raises: OSError, StoreError: the file that is there is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):  # workers start together
        return _described(folder, wanted)


def _described(folder: Path, wanted: Storage) -> Storage:
    known = read_storage(folder)
    instance = known.instance or (_new_instance() if wanted.store else "")
    storage = msgspec.structs.replace(wanted, instance=instance)
    if storage == known:
        return known
    temporary = folder / f"{STORAGE}.{secrets.token_hex(4)}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(storage), indent=1))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / STORAGE)
    finally:
        temporary.unlink(missing_ok=True)
    sync(folder)
    return storage


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def keyring_of(folder: Path, environ: Mapping[str, str] = os.environ) -> Keyring | None:
    """The keys of a traffic folder; None: it is not encrypted. Raises: SealError, StoreError."""
    return LogFolder(folder, environ).keyring


def _new_instance() -> str:
    """Tells people which machine it is, and is nobody else's."""
    host = re.sub(r"[^a-z0-9-]+", "-", platform.node().lower())[:40].strip("-") or "gateway"
    return f"{host}-{secrets.token_hex(4)}"
