"""A value that all processes change together: read, changed here, and written under the version that was read."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec

from router.errors import StateUnavailable, VersionConflict
from router.state.base import Store

logger = logging.getLogger(__name__)

TRIES = 12
WAIT_S = 0.02
"""At most, times the number of tries so far: who was slower gets out of the way."""


class Versioned(Protocol):
    """A state that says which release's it is."""

    @property
    def schema(self) -> int: ...


StateT = TypeVar("StateT", bound=Versioned)


def decoded(content: bytes | None, decode: Callable[[bytes], StateT], *, schema: int, what: str) -> StateT | None:
    """None: there is none, or it is damaged or of another release, which is as good as none.

    Args:
        what: the log's name for it.
    """
    if content is None:
        return None
    try:
        state = decode(content)
    except msgspec.DecodeError as exc:
        logger.warning("%s cannot be read (%s): it begins anew", what, exc)
        return None
    return state if state.schema == schema else None


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
