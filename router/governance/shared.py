"""A value that all processes change together: read, changed here, and written under the version that was read."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from router.errors import StateUnavailable, VersionConflict
from router.state.base import Store

TRIES = 12
WAIT_S = 0.02
"""At most, times the number of tries so far: who was slower gets out of the way."""


async def change(store: Store, name: str, changed: Callable[[bytes | None], bytes]) -> None:
    """Replace the value by what `changed` makes of it; called again with a newer one when somebody was faster.

    Raises:
        StateUnavailable: nobody knows whether it was written.
    """
    for number in range(TRIES):
        document = await store.read_document(name)
        content = changed(document.content if document is not None else None)
        try:
            await store.write_document(name, content, expected_version=document.version if document is not None else 0)
        except VersionConflict:
            await asyncio.sleep(random.random() * WAIT_S * (number + 1))  # noqa: S311 - no secret
            continue
        return
    raise StateUnavailable(f"{name} changes faster than it can be written")
