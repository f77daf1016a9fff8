"""Work in progress in a registry, and what is left of it when its process is killed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from policies.durable import UNFINISHED
from serving.locks import try_lock
from serving.pointer import POINTER_FILE
from serving.store import remove
from serving.verdicts import FOLDER as VERDICTS

INCOMING_PREFIX = ".incoming-"


def new_workspace(root: Path) -> tuple[Path, int | None]:
    """A hidden folder, and the descriptor that holds its lock: while it is open the folder stays."""
    folder = Path(tempfile.mkdtemp(prefix=INCOMING_PREFIX, dir=root))
    return folder, try_lock(folder)


def remove_leftovers(root: Path) -> None:
    """Remove folders whose owner is dead, and files that were being written: that is done under the registry's lock,
    which the caller holds, so their writers are dead as well. Raises: OSError."""
    for path in root.glob(f"{INCOMING_PREFIX}*"):
        if (descriptor := try_lock(path)) is not None:
            remove(path)
            os.close(descriptor)
    for pattern in (f"{POINTER_FILE}{UNFINISHED}", f"{VERDICTS}/*{UNFINISHED}"):
        for path in root.glob(pattern):
            remove(path)
