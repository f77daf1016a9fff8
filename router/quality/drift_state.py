"""Where the state of drift detection lives: one for all workers and replicas, in the shared store.

Each process counts by itself and adds what it has counted every `interval_s`: it takes a lease, reads the state (some
10 kB), adds, compares, writes. So all of them look at the same window, and traffic with the store is bounded by the
number of processes. While the store is away the counts wait. The reference is kept in a file as well: a store may
lose it.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from pathlib import Path

import msgspec

from policies import artefact
from policies.quality.drift import Monitor
from policies.quality.drift_summaries import Summary
from router.quality.lease import Lease
from router.state.base import Store

logger = logging.getLogger(__name__)

KEY = "quality/drift/1"
LEASE = "quality/drift"
LEASE_S = 15.0
KEPT_S = 90 * 86_400.0
MAX_STATE_BYTES = 32 * 2**20
SCHEMA = 1


class ReferenceFile(msgspec.Struct, frozen=True, kw_only=True):
    """`drift-reference.json`."""

    schema: int = SCHEMA
    student: str
    fixed_s: float
    tag: str | None
    """Whose values are told apart in it."""
    reference: Summary


def read_reference(path: Path) -> ReferenceFile | None:
    """None: there is none. Raises: ArtefactError: it cannot be used."""
    if not path.exists():
        return None
    found = artefact.read(path, ReferenceFile)
    if found.schema != SCHEMA:
        raise artefact.ArtefactError(f"{path}: schema {found.schema}, this version reads {SCHEMA}; set it again")
    return found


def write_reference(path: Path, reference: ReferenceFile) -> None:
    """Raises: OSError."""
    artefact.write(path, reference)


class SharedMonitor:
    """The state in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.lease = Lease(store, LEASE, lease_s=LEASE_S)
        """Who has it may write."""
        self._last: bytes | None = None
        """What was written or read last: a store that has lost it is given it back."""

    async def read(self) -> Monitor | None:
        """None: there is none, or it is of another release. Raises: StateUnavailable."""
        stored = await self._store.get(KEY)
        self._last = stored if stored is not None else self._last
        return None if self._last is None else await asyncio.to_thread(_decoded, self._last)

    async def write(self, monitor: Monitor) -> None:
        """Raises: StateUnavailable."""
        encoded = await asyncio.to_thread(_encoded, monitor)
        await self._store.put(KEY, encoded, ttl_s=KEPT_S)
        self._last = encoded


def _encoded(monitor: Monitor) -> bytes:
    return zlib.compress(msgspec.msgpack.encode(monitor), 6)


def _decoded(stored: bytes) -> Monitor | None:
    try:
        unpacked = zlib.decompressobj().decompress(stored, MAX_STATE_BYTES)
        return msgspec.msgpack.decode(unpacked, type=Monitor)
    except (zlib.error, msgspec.DecodeError) as exc:
        logger.warning("the state of drift detection cannot be read (%s): it begins anew", exc)
        return None
