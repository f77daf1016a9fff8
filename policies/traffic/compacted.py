"""The compacted part of a traffic log: Parquet files, and the manifest that says which of them count.

    <traffic folder>/compacted/manifest.json        the one pointer; replaced atomically
    <traffic folder>/compacted/2026-11-22-decisions-1f0c9a3e.parquet

or the same below a prefix of a store (policies/traffic/stores.py). A file that the manifest does not name is what an
interrupted compaction left: nobody reads it. A segment that the manifest names is in the files already and waits for
its removal: nobody reads it either. So a crash at any point neither doubles nor loses a record.

Columns of every file: `payload` (the record's JSON, byte for byte), `crc32` (of the payload, as in the segment),
`decision_id`, `created_s`; of decisions also what SQL asks for often (policies/traffic/sql.py). Sorted by `created_s`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from policies.durable import write_atomically

FOLDER = "compacted"
MANIFEST = "manifest.json"
LOCK = "lock"
"""Queries hold it shared; a compaction takes it whole before it removes files that a query may be reading."""
COMPACTING = "compacting"
"""Whoever publishes a manifest in a folder holds it whole."""
MANIFEST_SCHEMA_VERSION = 1

RecordKind = Literal["decisions", "feedback"]
"""What the records of a file are; `feedback` are all annotations: people's judgements and shadow answers."""


class ManifestError(ValueError):
    """The manifest cannot be read. The message names the file."""


class CompactedFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One Parquet file. Immutable once the manifest names it."""

    name: str
    kind: RecordKind
    day: str
    """UTC, `YYYY-MM-DD`."""
    columns: str
    """Version of the columns beside `payload` (policies/traffic/columns.py)."""
    rows: int
    size_bytes: int
    """As it is stored."""
    sha256: str
    """Of the bytes as they are stored."""
    sealed: str = ""
    """Id of the key that it is encrypted with as a whole (policies/traffic/sealing.py); empty: it is not."""


class Superseded(msgspec.Struct, frozen=True, kw_only=True):
    """A file that counts no longer. In a store nobody can tell who is still reading it, so it stays for a while."""

    name: str
    since_s: float
    """Unix time at which a compaction saw it without a manifest naming it."""


class TrafficManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What counts."""

    schema: int = MANIFEST_SCHEMA_VERSION
    version: int = 0
    """Grows by one with each; 0 = there is none yet."""
    files: tuple[CompactedFile, ...] = ()
    """Ordered by day."""
    segments: tuple[str, ...] = ()
    """Names of segments whose records are in `files`; they may still be there."""
    superseded: tuple[Superseded, ...] = ()
    tombstones: tuple[str, ...] = ()
    """Names of the tombstones whose records are in none of the files (policies/traffic/tombstones.py)."""


def read_manifest(folder: Path) -> TrafficManifest:
    """The manifest of a traffic folder's own compacted files; an empty one when nothing was compacted yet.

    Raises:
        ManifestError: damaged, or of a newer version.
        OSError.
    """
    path = folder / FOLDER / MANIFEST
    try:
        return decode_manifest(path.read_bytes(), str(path))
    except FileNotFoundError:
        return TrafficManifest()


def decode_manifest(data: bytes, name: str) -> TrafficManifest:
    """Raises: ManifestError."""
    try:
        manifest = msgspec.json.decode(data, type=TrafficManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ManifestError(f"{name} is damaged: {exc}") from exc
    if manifest.schema > MANIFEST_SCHEMA_VERSION:
        raise ManifestError(f"{name} was written by a newer version of Locum (schema {manifest.schema})")
    for each in manifest.files:
        if Path(each.name).name != each.name:
            raise ManifestError(f"{name} is damaged: {each.name[:80]!r} is not a file name")
    return manifest


def encode_manifest(manifest: TrafficManifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def write_manifest(folder: Path, manifest: TrafficManifest) -> None:
    """Replace the manifest in a folder of compacted files: the step that makes a compaction count. Raises: OSError."""
    write_atomically(folder / MANIFEST, encode_manifest(manifest))
