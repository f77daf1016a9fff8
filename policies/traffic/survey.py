"""What there is to read in a traffic log at one moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from policies.traffic.compacted import CompactedFile, ManifestError, TrafficManifest
from policies.traffic.folder import LogFolder
from policies.traffic.sealing import SealError
from policies.traffic.stores import Store, StoreError
from policies.traffic.tombstones import Ledger, LedgerError, load_ledger, subject_keys


class TrafficError(Exception):
    """A traffic folder cannot be read. The message names it and the fix."""


class Part(NamedTuple):
    """A store and what counts in it."""

    store: Store
    manifest: TrafficManifest

    def place(self, file: CompactedFile) -> str:
        """What messages call a file."""
        return f"{self.store.label}/{file.name}"


class Survey(NamedTuple):
    parts: list[Part]
    segments: list[str]
    """Names of those that no manifest covers, oldest first."""

    def manifests(self) -> list[tuple[str, TrafficManifest]]:
        """What there is, to compare with what there was."""
        return [(part.store.label, part.manifest) for part in self.parts]

    @property
    def own(self) -> Part:
        """The one that this folder is compacted to."""
        return self.parts[0]


@contextmanager
def as_traffic_errors(folder: Path) -> Iterator[None]:
    """What can be wrong with a log's folder, store and keys, as a TrafficError."""
    try:
        yield
    except NotADirectoryError as exc:
        raise TrafficError(f"{folder} is not a folder; give the folder of a traffic log (log.dir)") from exc
    except FileNotFoundError as exc:
        raise TrafficError(f"{folder} does not exist; give the folder of a traffic log (log.dir)") from exc
    except OSError as exc:
        raise TrafficError(f"{folder} cannot be read: {exc.strerror or exc}") from exc
    except (ManifestError, StoreError, SealError, LedgerError) as exc:
        raise TrafficError(str(exc)) from exc


def survey(log: LogFolder) -> Survey:
    """Look at everything. The part that this folder is compacted to comes first.

    Segments are listed before manifests are read: one that a compaction removes between the two is in a manifest then.

    Raises: TrafficError.
    """
    with as_traffic_errors(log.path):
        names = log.segments()
        own = log.own
        stores = [own, *(store for store in log.parts() if store.label != own.label)]
        parts = [Part(store, store.manifest()) for store in stores]
    here = (own.label, log.local.label)
    covered = {name for part in parts if part.store.label in here for name in part.manifest.segments}
    return Survey(parts, [name for name in names if name not in covered])


def snapshot(folder: Path) -> tuple[TrafficManifest, list[str]]:
    """The manifest of the compacted files in the folder itself, and the segments that no manifest covers.

    Raises: TrafficError.
    """
    log = open_folder(folder)
    seen = survey(log)
    return next(part.manifest for part in seen.parts if part.store.label == log.local.label), seen.segments


def open_folder(folder: Path) -> LogFolder:
    """Raises: TrafficError."""
    with as_traffic_errors(folder):
        return LogFolder(folder)


def ledger_of(log: LogFolder) -> Ledger:
    """Everything that was erased. Raises: TrafficError."""
    with as_traffic_errors(log.path):
        stores = log.ledgers()
        if not any(store.names() for store in stores):
            return Ledger({}, ())
        return load_ledger(stores, subject_keys(log.storage.subject_key_env, log.environ))
