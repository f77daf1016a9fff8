"""Files that are whole on the disk or not there, whenever a process or the machine stops; and their hashes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

UNFINISHED_SUFFIX = ".partial"
UNFINISHED = f".*{UNFINISHED_SUFFIX}"
"""Pattern for what `write_atomically` has behind a file's name until it is whole; a killed process leaves it."""


def write_atomically(path: Path, data: bytes) -> None:
    """The file has the old content or the new one, and keeps the new one. Raises: OSError: it is the old one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED_SUFFIX}")
    try:
        temporary.write_bytes(data)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's content durable, or the names in a folder: those that came, changed and went. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """64 hex digits of a file's content, read in blocks. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
