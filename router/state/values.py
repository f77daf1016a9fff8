"""Values with a time to live, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

ENTRY_OVERHEAD_BYTES = 250
"""Of Python's objects around a value."""


class Values:
    """The values that were used last, as many as fit."""

    def __init__(self, clock: Callable[[], float], *, max_bytes: int) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, end_s = entry
        if end_s <= self._clock():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """A value larger than the whole bound is not kept."""
        self._drop(key)
        size_bytes = _size_bytes(key, value)
        if size_bytes > self._max_bytes:
            return
        self._entries[key] = value, self._clock() + ttl_s
        self.size_bytes += size_bytes
        while self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= _size_bytes(key, entry[0])


def _size_bytes(key: str, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_OVERHEAD_BYTES
