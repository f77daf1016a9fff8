"""One budget that is spread over the day, shared with the other processes and kept over restarts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from policies.artefact import replace_file
from policies.pacer import Pacer
from policies.pacing import SCHEMA, PacingState
from router.errors import StateUnavailable
from router.governance import shared
from router.state.base import Store

logger = logging.getLogger(__name__)

SAVE_S = 30.0
"""How much of the counts a gateway alone may lose that is killed."""
MAX_FILE_BYTES = 2**20

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PacingState).decode


class SharedPacer:
    """A `Pacer` and the state of all: in the store, and in a file for a store that loses it."""

    def __init__(
        self, pacer: Pacer, store: Store, *, name: str, file: Path, clock: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            name: of the state in the store.
            clock: epoch time in seconds.
        """
        self.pacer = pacer
        self._store = store
        self._name = name
        self._file = file
        self._clock = clock
        self._saved_s = 0.0
        self._started = False

    async def sync(self) -> None:
        """Bring what was seen here to the others, and take what they have. Never raises: alone it goes on by itself."""
        if not self._started:
            await self._start()
        taken = self.pacer.begin_merge()
        merged: PacingState | None = None

        def changed(stored: bytes | None) -> bytes:
            nonlocal merged
            merged = self.pacer.merged(taken, decoded(stored), self._clock())
            return encode(merged)

        try:
            await shared.change(self._store, self._name, changed)
        except StateUnavailable as exc:
            logger.debug("%s: this process paces alone: %s", self._name, exc)
            self.pacer.go_alone(taken, self._clock())
        else:
            assert merged is not None  # noqa: S101 - it was written
            self.pacer.end_merge(merged)
        if self._clock() - self._saved_s >= SAVE_S:
            await self.save()

    async def save(self) -> None:
        """To the disk. Never raises: what is in the store counts."""
        self._saved_s = self._clock()
        try:
            await asyncio.to_thread(replace_file, self._file, encode(self.pacer.state))
        except OSError as exc:
            logger.warning("%s: the state is not on disk: %s", self._name, exc.strerror)

    async def _start(self) -> None:
        self._started = True
        kept = await asyncio.to_thread(_read, self._file)
        if kept is not None and kept.updated_s <= self._clock():
            self.pacer.adopt(kept)


def _read(file: Path) -> PacingState | None:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            return None
        return decoded(file.read_bytes())
    except OSError:
        return None


def decoded(content: bytes | None) -> PacingState | None:
    return shared.decoded(content, _decode, schema=SCHEMA, what="the state of a budget")
