"""Which event loop the load tests run on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it exists: a slow fake backend or generator would measure itself."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop  # noqa: PLC0415 - not installable on Windows

    return uvloop.new_event_loop()


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on that loop; works in threads as well."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)
