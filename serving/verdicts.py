"""Which bundles were found sound, so that a gateway that starts again need not hash gigabytes again.

    <registry>/.verified/<bundle id>.json    what the file system said of each file of the bundle when it was hashed

A verdict holds for as long as every file has the size, the time of its last change and the inode that it had then.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from policies.durable import write_atomically

FOLDER = ".verified"
CHUNK_BYTES = 1 << 20

Fingerprints = dict[str, tuple[int, int, int]]
"""Path relative to the bundle -> size, st_mtime_ns, inode."""


class Stopped(Exception):
    """Nobody wants the verdict any more."""


def fingerprints(folder: Path) -> Fingerprints:
    """Of everything in a bundle but its folders; links are not followed. Raises: OSError."""
    found: Fingerprints = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            status = path.lstat()
            found[path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def is_known(root: Path, bundle_id: str, seen: Fingerprints) -> bool:
    """Whether the bundle was found sound with these fingerprints."""
    try:
        return msgspec.json.decode((root / FOLDER / f"{bundle_id}.json").read_bytes(), type=Fingerprints) == seen
    except (OSError, msgspec.MsgspecError):
        return False


def remember(root: Path, bundle_id: str, seen: Fingerprints) -> None:
    """Note that a bundle is sound. The caller holds the registry's lock.

    Args:
        seen: taken before the files were hashed.
    Raises: OSError.
    """
    (root / FOLDER).mkdir(exist_ok=True)
    write_atomically(root / FOLDER / f"{bundle_id}.json", msgspec.json.encode(seen))


def stoppable_sha256(stop: threading.Event) -> Callable[[Path], str]:
    """`durable.sha256_of` for a thread that must end soon when its result is not wanted: raises Stopped once `stop` is
    set."""

    def sha256_of(path: Path) -> str:
        digest, buffer = hashlib.sha256(), bytearray(CHUNK_BYTES)
        view = memoryview(buffer)
        with path.open("rb", buffering=0) as file:
            while size := file.readinto(buffer):
                if stop.is_set():
                    raise Stopped
                digest.update(view[:size])
        return digest.hexdigest()

    return sha256_of
