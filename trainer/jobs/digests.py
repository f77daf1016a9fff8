"""SHA-256 of what goes into a run and comes out of it."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_model(folder: Path) -> str:
    """Of the names and contents of all files of a model's folder."""
    combined = hashlib.sha256()
    for path in sorted(each for each in folder.iterdir() if each.is_file()):
        combined.update(f"{path.name}\0{digest_file(path)}\n".encode())
    return combined.hexdigest()
