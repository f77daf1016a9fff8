"""Which replica gets a request: the less loaded of two, or the one that knows the conversation or the prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from random import Random
from typing import Protocol

from router.config.resilience import Spread
from router.resilience.replica import Replica

PREFIX_BYTES = 1024
"""Of the prompt that prefix-aware spread looks at: what shares a system prompt or a document goes to one replica."""
LOAD_BOUND = 1.25
"""A replica that a key belongs to is passed over while it has more than this times the average load."""


class Affine(Protocol):
    """What of a request matters for the choice of a replica."""

    @property
    def stream(self) -> bool: ...

    def session_key(self) -> bytes | None:
        """The conversation, if the client named it."""
        ...

    def prompt_prefix(self, limit_bytes: int) -> bytes:
        """The first bytes of the prompt."""
        ...


def affinity(spread: Spread, request: Affine) -> bytes | None:
    """What binds this request to a replica; None: nothing does."""
    if spread == "session":
        return request.session_key()
    if spread == "prefix":
        return request.prompt_prefix(PREFIX_BYTES) or None
    return None


def choose(replicas: Sequence[Replica], key: bytes | None, random: Random) -> Replica:
    """One of at least two replicas."""
    return least_loaded(replicas, random) if key is None else bound(replicas, key)


def least_loaded(replicas: Sequence[Replica], random: Random) -> Replica:
    """The less loaded of two random ones ("power of two choices"): as good as looking at all of them, and gateways
    that see the same numbers do not all choose the same replica."""
    first, second = random.sample(replicas, 2)
    load_of_first, load_of_second = loads((first, second))
    return second if load_of_second < load_of_first else first


def bound(replicas: Sequence[Replica], key: bytes) -> Replica:
    """The replica that a key belongs to, the same in every process; the next one while it is overloaded.

    Source: rendezvous hashing (Thaler and Ravishankar 1998) with bounded loads (Mirrokni et al., arXiv:1608.01350).
    """
    known = dict(zip(replicas, loads(replicas), strict=True))
    limit = math.ceil(LOAD_BOUND * (sum(known.values()) + 1) / len(replicas))
    ranked = sorted(replicas, key=lambda replica: _weight(replica, key), reverse=True)
    return next((replica for replica in ranked if known[replica] < limit), ranked[0])


def loads(replicas: Sequence[Replica]) -> list[float]:
    """Comparable loads: by what the engines say if all of them have said it lately, else by our own requests."""
    engines = [replica.engine for replica in replicas]
    if all(engine is not None for engine in engines):
        return [r.requests(engine) for r, engine in zip(replicas, engines, strict=True) if engine is not None]
    return [float(replica.inflight) for replica in replicas]


def _weight(replica: Replica, key: bytes) -> bytes:
    return blake2b(replica.name.encode() + b"\n" + key, digest_size=8).digest()
