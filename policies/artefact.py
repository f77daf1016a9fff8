"""Fitted numbers as JSON files: readable, diffable, verified by a hash, refused when they do not fit the code.

No pickle: loading a policy's weights must not run code.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

DATA_FOLDER = Path(__file__).parent / "data"
"""Artefacts that come with the package."""

MAX_BYTES = 64 * 2**20

T = TypeVar("T", bound=msgspec.Struct)


class ArtefactError(ValueError):
    """The file cannot be used; the message names it and says what to do."""


def sha256_behind(policy: object) -> str | None:
    """Of the learned artefact that a policy votes by (its attribute `artefact_sha256`); None: it has none."""
    found = getattr(policy, "artefact_sha256", None)
    return found if isinstance(found, str) and found else None


def read(path: Path, kind: type[T]) -> T:
    """Read an artefact of the struct type `kind` and verify its hash.

    Raises:
        ArtefactError: missing, damaged, edited by hand, or of another kind.
    """
    try:
        fields = msgspec.json.decode(_content(path), type=dict[str, Any])
        stated = fields.pop("sha256", None)
        artefact = msgspec.convert(fields, kind, str_keys=True)
    except OSError as exc:
        raise ArtefactError(f"{path}: cannot be read: {exc.strerror}") from exc
    except msgspec.MsgspecError as exc:
        raise ArtefactError(f"{path}: not an artefact of the kind {kind.__name__}: {exc}") from exc
    actual = digest(fields)
    if stated != actual:
        raise ArtefactError(
            f"{path}: its sha256 is {actual} but it states {stated}: it is damaged or was edited; fit it again"
        )
    return artefact


def _content(path: Path) -> bytes:
    """Bounded, and of a file only: a policy document that came over the network may name any path.

    Raises:
        ArtefactError, OSError.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ArtefactError(f"{path}: is not a file")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ArtefactError(f"{path}: is larger than {MAX_BYTES} bytes; no artefact is")
    return content


def write(path: Path, artefact: msgspec.Struct) -> str:
    """Write an artefact with its hash, and return the hash."""
    content, sha256 = encoded(artefact)
    replace_file(path, content)
    return sha256


def encoded(artefact: msgspec.Struct) -> tuple[bytes, str]:
    """The file of an artefact, and the hash in it."""
    fields: dict[str, Any] = msgspec.to_builtins(artefact, str_keys=True)
    sha256 = digest(fields)
    text = msgspec.json.format(msgspec.json.encode({"sha256": sha256, **fields}), indent=1)
    return text + b"\n", sha256


def replace_file(path: Path, content: bytes) -> None:
    """Write a file, with its folder. A reader sees the old file or the new one, never a part. Raises: OSError."""
    replace_files({path: content})


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together: each is complete on the disk before the first takes its place.

    Raises: OSError: for example a full disk; the files are the old ones.
    """
    unfinished = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in unfinished.items():
            temporary.replace(path)
    finally:
        for temporary in unfinished.values():
            with contextlib.suppress(NotADirectoryError):
                temporary.unlink(missing_ok=True)


def digest(fields: dict[str, Any]) -> str:
    """sha256 of the content as canonical JSON: sorted keys, no blanks, the hash itself left out."""
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()
