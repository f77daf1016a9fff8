"""How often each learned artefact has voted in shadow, over all processes: what it takes before it may decide."""

from __future__ import annotations

from collections import Counter

import msgspec

from router.errors import StateUnavailable
from router.governance.shared import change
from router.state.base import Store

NAME = "governance/shadow_votes"
MAX_ARTEFACTS = 256
"""The ones with the most votes are kept."""
_decode = msgspec.json.Decoder(dict[str, int]).decode


class ShadowVotes:
    """Counts by the sha256 of the artefact."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unsent: Counter[str] = Counter()

    def add(self, sha256: str) -> None:
        """A vote with a score was recorded."""
        self._unsent[sha256] += 1

    async def sync(self) -> None:
        """Bring the counts to the others. Never raises: they wait."""
        if not self._unsent:
            return
        sending, self._unsent = self._unsent, Counter()
        try:
            await change(self._store, NAME, lambda stored: _encoded(_counts(stored) + sending))
        except StateUnavailable:
            self._unsent += sending

    async def counts(self) -> Counter[str]:
        """Of all processes, with what this one has not sent yet. Raises: StateUnavailable."""
        document = await self._store.read_document(NAME)
        return _counts(document.content if document is not None else None) + self._unsent


def _counts(stored: bytes | None) -> Counter[str]:
    if stored is None:
        return Counter()
    try:
        return Counter(_decode(stored))
    except msgspec.DecodeError:
        return Counter()  # of another release


def _encoded(counts: Counter[str]) -> bytes:
    return msgspec.json.encode(dict(counts.most_common(MAX_ARTEFACTS)))
