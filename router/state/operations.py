"""What travels to a store in another process: `script.lua` and `StoreServer` understand the same messages."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import msgspec

from router.state.base import Adjust, Claim, Verdict

ANY_VERSION = -1
NOBODY = -1
NEVER_S = -1.0


class Admit(msgspec.Struct, frozen=True, array_like=True, tag="admit"):
    holder: str
    claims: tuple[Claim, ...]


class Settle(msgspec.Struct, frozen=True, array_like=True, tag="settle"):
    holder: str
    adjustments: tuple[Adjust, ...]


class Renew(msgspec.Struct, frozen=True, array_like=True, tag="renew"):
    holders: tuple[str, ...]


class Write(msgspec.Struct, frozen=True, array_like=True, tag="write"):
    name: str
    content: bytes
    expected_version: int
    """`ANY_VERSION`, or the one that must be current."""


class Probe(msgspec.Struct, frozen=True, array_like=True, tag="probe"):
    """Asks whether the store takes writes."""


Operation: TypeAlias = Admit | Settle | Renew | Write | Probe


def verdict_to_raw(verdict: Verdict) -> list[Any]:
    """MessagePack from Lua has neither None inside a list nor inf."""
    return [
        verdict.admitted,
        NOBODY if verdict.denied_by is None else verdict.denied_by,
        NEVER_S if verdict.retry_after_s == math.inf else verdict.retry_after_s,
        verdict.remaining,
        verdict.reset_s,
    ]


def verdict_from_raw(raw: list[Any]) -> Verdict:
    admitted, denied_by, retry_after_s, remaining, reset_s = raw
    return Verdict(
        admitted,
        None if denied_by == NOBODY else denied_by,
        math.inf if retry_after_s == NEVER_S else float(retry_after_s),
        tuple(map(float, remaining)),
        tuple(map(float, reset_s)),
    )


# What only `StoreServer` understands; Redis has commands for it.


class Get(msgspec.Struct, frozen=True, array_like=True, tag="get"):
    key: str


class Put(msgspec.Struct, frozen=True, array_like=True, tag="put"):
    key: str
    value: bytes
    ttl_s: float


class Read(msgspec.Struct, frozen=True, array_like=True, tag="read"):
    name: str


class History(msgspec.Struct, frozen=True, array_like=True, tag="history"):
    name: str
    limit: int


Request: TypeAlias = Operation | Get | Put | Read | History
