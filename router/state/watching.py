"""Sees new versions of a document by asking for it: no subscription that could be lost without a trace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from router.errors import StateUnavailable
from router.state.base import Document

WATCH_INTERVAL_S = 0.4


async def watch(
    read: Callable[[str], Awaitable[Document | None]], name: str, *, interval_s: float = WATCH_INTERVAL_S
) -> AsyncIterator[Document]:
    """`Store.watch`, on top of `Store.read_document`."""
    seen: tuple[int, float] | None = None
    while True:
        document = await _read(read, name)
        if document is not None and (document.version, document.written_s) != seen:
            seen = document.version, document.written_s
            yield document
        await asyncio.sleep(interval_s)


async def _read(read: Callable[[str], Awaitable[Document | None]], name: str) -> Document | None:
    try:
        return await read(name)
    except StateUnavailable:
        return None  # the store says so itself, in its metric and in /readyz
