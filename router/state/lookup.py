"""Looks a host's name up, never twice at a time: one that hangs holds one of the few threads that backends need too."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable

Resolve = Callable[[str, int], Awaitable[object]]


class Lookup:
    """Of one host; an address or none at all needs no look-up."""

    def __init__(self, host: str | None, port: int, resolve: Resolve | None = None) -> None:
        self._host, self._port = host if host is not None and not _is_address(host) else None, port
        self._resolve = resolve or _resolve
        self._pending: asyncio.Future[object] | None = None

    async def check(self, *, within_s: float) -> None:
        """Returns when the name is known, which makes the next look-up quick.

        Raises:
            TimeoutError: this look-up, or one before it, goes on.
            OSError: there is no such name.
        """
        if self._host is None:
            return
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._resolve(self._host, self._port))
        done, _ = await asyncio.wait((self._pending,), timeout=within_s)
        if not done:
            raise TimeoutError
        finished, self._pending = self._pending, None
        finished.result()


async def _resolve(host: str, port: int) -> object:
    return await asyncio.get_running_loop().getaddrinfo(host, port)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
