"""State that processes and replicas share: `memory://`, or `redis://` for several machines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from router.config import Config
from router.metrics import Metrics
from router.state.base import Adjust, Budget, Claim, Document, Period, Rate, Slots, Store, Verdict
from router.state.failover import FailoverStore
from router.state.linked import LinkedStore, Wire
from router.state.memory import MemoryStore
from router.state.redis import RedisWire
from router.state.remote import SocketWire

__all__ = [
    "Adjust",
    "Budget",
    "Claim",
    "Document",
    "OpenStore",
    "Period",
    "Rate",
    "Slots",
    "Store",
    "Verdict",
    "open_store",
]

OpenStore: TypeAlias = MemoryStore | FailoverStore
LOCAL_TIMEOUT_S = 0.25
"""For a worker's calls of its parent process, which answers in well under a millisecond unless the machine is full."""


def open_store(
    config: Config, metrics: Metrics, *, environ: Mapping[str, str] = os.environ, served_at: Path | None = None
) -> OpenStore:
    """The store that the configuration names: a `Store`, to be entered (`async with`) before it is used.

    Making it opens no connection, and entering it does not fail when Redis is away.

    Args:
        served_at: socket of the parent's `StoreServer`: how `memory://` is shared by the workers of one gateway.
    """
    metrics.state_up.set(1)
    state = config.state
    wire: Wire
    if state.url != "memory://":
        wire, timeout_s = RedisWire(state, environ), state.timeout_s
    elif served_at is not None:
        wire, timeout_s = SocketWire(served_at), LOCAL_TIMEOUT_S
    else:
        return MemoryStore(max_value_bytes=config.cache.max_bytes)
    linked = LinkedStore(wire, timeout_s=timeout_s, on_change=metrics.state_up.set)
    return FailoverStore(linked, state.on_failure, metrics)
