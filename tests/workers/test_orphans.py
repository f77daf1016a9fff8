"""A worker ends when its parent has ended, whenever that was."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from policies.bundle import Bundle
from router.workers.worker import ParentLink


async def never(bundle: Bundle, folder: Path, base_url: str) -> None:
    raise AssertionError("nobody is there to ask for it")


@pytest.mark.parametrize("moment", ["before it is ready", "while it serves"])
async def test_worker_tells_itself_to_end_when_its_parent_is_gone(moment: str) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    parent, end = socket.socketpair()
    try:
        if moment == "before it is ready":
            parent.close()  # killed while the worker was starting
        async with ParentLink(end, never):
            await asyncio.sleep(0)
            parent.close()
            async with asyncio.timeout(10):
                await told.wait()
        assert told.is_set()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        parent.close()
