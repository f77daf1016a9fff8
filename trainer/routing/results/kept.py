"""Measurements that were made before, under a hash of what they depend on: an interrupted run goes on, a second one is
quick, and a change measures again only what it concerns."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from policies import durable
from policies.artefact import replace_file
from trainer.routing.results.section import Found, Section

KEY_DIGITS = 20


class DataMissing(ValueError):
    """A file of the data folder is not there; the message names it."""


class Kept:
    """The folder of kept measurements."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def result(self, section: Section, data: Path, measure: Callable[[], Found]) -> tuple[Found, bool]:
        """What was measured, and whether that was before.

        Raises:
            DataMissing
        """
        path = self._path(section, data)  # of the code as it is when the measurement begins
        known = _known(path)
        if known is not None:
            return known, True
        content = json.dumps(measure(), indent=1).encode()
        replace_file(path, content)
        return json.loads(content), False

    def known(self, section: Section, data: Path) -> Found | None:
        """What was measured before, if it was. Raises: DataMissing."""
        return _known(self._path(section, data))

    def _path(self, section: Section, data: Path) -> Path:
        return self._folder / f"{section.name}-{key(section, data)}.json"


def _known(path: Path) -> Found | None:
    try:
        found: Found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return found


def key(section: Section, data: Path) -> str:
    """Of the contents of its files and of its code. Raises: DataMissing."""
    state = hashlib.sha256()
    for name in sorted(section.files):
        state.update(f"{name} {sha256_of(data / name)}\n".encode())
    for module in sorted(section.code):
        for path in _sources(module):
            state.update(f"{module} {path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return state.hexdigest()[:KEY_DIGITS]


@lru_cache
def sha256_of(path: Path) -> str:
    """Raises: DataMissing."""
    try:
        return durable.sha256_of(path)
    except OSError as exc:
        raise DataMissing(
            f"{path}: cannot be read: {exc.strerror or exc}; --data must name the folder with the data sets"
        ) from exc


def _sources(module: str) -> list[Path]:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"{module} is no module with a source")
    origin = Path(spec.origin)
    return sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
