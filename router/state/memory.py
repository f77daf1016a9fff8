"""`memory://`: the state of one process, or of several when one of them serves it to the others."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Self

from router.errors import VersionConflict
from router.state.base import HISTORY_LENGTH, Adjust, Claim, Document, Verdict
from router.state.ledger import Ledger
from router.state.values import Values
from router.state.watching import watch


class MemoryStore:
    """`Store` without a network: never unavailable, gone with the process."""

    failure: str | None = None

    def __init__(self, *, max_value_bytes: int, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            max_value_bytes: of what was put; documents and claims are not counted.
            clock: epoch time in seconds.
        """
        self._clock = clock
        self._ledger = Ledger(clock)
        self._values = Values(clock, max_bytes=max_value_bytes)
        self._documents: dict[str, list[Document]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to close."""

    def admit_at_once(self, claims: Sequence[Claim], *, holder: str) -> Verdict | None:
        return self._ledger.admit(claims, holder)

    def settle_at_once(self, adjustments: Sequence[Adjust], *, holder: str) -> bool:
        self._ledger.settle(adjustments, holder)
        return True

    async def admit(self, claims: Sequence[Claim], *, holder: str) -> Verdict:
        return self._ledger.admit(claims, holder)

    async def settle(self, adjustments: Sequence[Adjust], *, holder: str) -> None:
        self._ledger.settle(adjustments, holder)

    def holds(self, holder: str) -> bool:
        """Whether claims of this holder are unsettled."""
        return self._ledger.holds(holder)

    async def renew(self, holders: Sequence[str]) -> None:
        self._ledger.renew(holders)

    async def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        self._values.put(key, value, ttl_s=ttl_s)

    async def read_document(self, name: str) -> Document | None:
        versions = self._documents.get(name)
        return versions[0] if versions else None

    async def write_document(self, name: str, content: bytes, *, expected_version: int | None) -> Document:
        versions = self._documents.setdefault(name, [])
        current = versions[0].version if versions else 0
        if expected_version is not None and expected_version != current:
            raise VersionConflict(name, expected_version=expected_version, current_version=current)
        document = Document(name, current + 1, content, self._clock())
        versions.insert(0, document)
        del versions[HISTORY_LENGTH:]
        return document

    async def document_history(self, name: str, *, limit: int = HISTORY_LENGTH) -> list[Document]:
        return self._documents.get(name, [])[:limit]

    def watch(self, name: str) -> AsyncIterator[Document]:
        return watch(self.read_document, name)
