"""The versions that this machine has had in force, one file each.

With `memory://` this is what a restart goes on from. With a shared store it is the last known document for a gateway
that starts while the store is away.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from policies.artefact import replace_file
from router.documents.document import DocumentRejected, Version

logger = logging.getLogger(__name__)

KEPT_VERSIONS = 1_000
_NAME = re.compile(r"(\d{6,12})\.json")


class Archive:
    """A folder with `000007.json` for version 7. Several processes may write: equal versions are equal files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, version: Version) -> None:
        """Write a version so that it survives a power cut. Raises: OSError."""
        replace_file(self._path(version.version), version.encoded() + b"\n")
        self._path(version.version - KEPT_VERSIONS).unlink(missing_ok=True)

    def newest(self) -> Version | None:
        """The last version that can be read; damaged ones are reported and passed over."""
        for number in reversed(self.numbers()):
            version = self.get(number)
            if version is not None:
                return version
        return None

    def get(self, number: int) -> Version | None:
        """None when it is not there or damaged, which is reported."""
        path = self._path(number)
        try:
            return Version.decoded(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, DocumentRejected) as exc:
            logger.error("%s cannot be used: %s", path, exc)
            return None

    def numbers(self) -> list[int]:
        """Of all versions there are, ascending."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.json"
