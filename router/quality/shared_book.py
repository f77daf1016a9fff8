"""The alarm book of one process: in the store with everybody's, and in a file for a store that loses it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from policies.certificate import Acknowledged
from policies.durable import write_atomically
from policies.quality.drift import Monitor
from router.errors import StateUnavailable
from router.governance import shared
from router.quality.alarm_book import SCHEMA, Book, merged, noted
from router.state.base import Store

logger = logging.getLogger(__name__)

NAME = "quality/alarms"
"""Of the document in the store."""
FILE = "drift-alarms.json"
"""In `admin.dir`."""
MAX_FILE_BYTES = 2**20

_decode = msgspec.json.Decoder(Book).decode


class SharedBook:
    """What is noted here counts here at once, and for the others with the next `exchange`."""

    def __init__(self, store: Store, file: Path) -> None:
        self.book = Book()
        self._store = store
        self._file = file
        self._saved = Book()

    def load(self) -> None:
        """What was known on this machine before. Never raises: a file that cannot be read is named in the log."""
        try:
            if self._file.stat().st_size > MAX_FILE_BYTES:
                raise OSError(f"is larger than {MAX_FILE_BYTES} bytes")
            kept = _decoded(self._file.read_bytes())
        except FileNotFoundError:
            return
        except OSError as exc:
            logger.warning("%s is not used: %s", self._file, exc.strerror or exc)
            return
        if kept is not None:
            self.book, self._saved = merged(self.book, kept), kept

    def note(self, monitor: Monitor, teacher: str) -> None:
        """What drift detection says now."""
        self.book = noted(self.book, monitor, teacher)

    async def exchange(self) -> None:
        """Bring what was noted here to the others, and take what they have. Raises: StateUnavailable."""
        try:
            document = await self._store.read_document(NAME)
            stored = _decoded(document.content) if document is not None else None
            self.book = merged(self.book, stored or Book())
            if self.book != (stored or Book()):
                await self._write(self.book)
        finally:
            if self.book != self._saved:
                await asyncio.to_thread(self._save, self.book)

    async def acknowledge(self, sha256: str, said: Acknowledged) -> None:
        """Write down that a certificate holds although something has happened. Raises: StateUnavailable: nobody
        knows it, here neither."""
        if self._store.failure is not None:  # the local stand-in would tell nobody else
            raise StateUnavailable(self._store.failure)
        await self._write(merged(self.book, Book(acknowledged={sha256: said})))
        await asyncio.to_thread(self._save, self.book)

    async def _write(self, book: Book) -> None:
        written = book

        def changed(content: bytes | None) -> bytes:
            nonlocal written
            written = merged(book, _decoded(content) or Book())
            return msgspec.json.encode(written)

        await shared.change(self._store, NAME, changed)
        self.book = merged(self.book, written)

    def _save(self, book: Book) -> None:
        """Never raises: what is in the store counts."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, msgspec.json.encode(book))
            self._saved = book
        except OSError as exc:
            logger.warning("the alarms of drift are not on disk: %s", exc.strerror)


def _decoded(content: bytes | None) -> Book | None:
    return shared.decoded(content, _decode, schema=SCHEMA, what="the book of drift alarms")
