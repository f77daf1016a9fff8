"""What the gateway shares between its processes and replicas: limits, budgets, slots, cached answers, documents.

`Store` is the whole contract. Every method is atomic over all processes and replicas that use the same store, and
bounded in time: it returns or raises StateUnavailable, it never hangs. Keys are plain text that callers choose, such
as `tenant/acme/requests`; claims of different kinds may share one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

Period = Literal["day", "month"]
SLOT_RETRY_S = 1.0
"""Nobody knows when a slot becomes free; this is what a verdict says."""
HISTORY_LENGTH = 100
"""Versions of a document that are kept."""


class Rate(msgspec.Struct, frozen=True, array_like=True, tag="rate"):
    """Takes `amount` from a bucket that holds `per_minute` at most and is refilled continuously at that rate.

    More than `per_minute` at once is never admitted. Settling may leave a debt in the bucket, which the refill pays.
    """

    key: str
    per_minute: float
    amount: float


class Budget(msgspec.Struct, frozen=True, array_like=True, tag="budget"):
    """Adds `amount` to what was spent in this calendar day or month (UTC), if `limit` allows. A spent budget admits
    nothing, not even 0."""

    key: str
    limit: float
    amount: float
    resets: Period


class Slots(msgspec.Struct, frozen=True, array_like=True, tag="slots"):
    """Takes one of `limit` places. It comes free when it is settled, or `ttl_s` after it was taken or renewed last: so
    ends what a killed process held."""

    key: str
    limit: int
    ttl_s: float


Claim: TypeAlias = Rate | Budget | Slots


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """What the store says to claims: all of them were taken, or none."""

    admitted: bool
    denied_by: int | None
    """Index of the claim that has to be waited for longest."""
    retry_after_s: float
    """0 when admitted, `inf` when waiting cannot help."""
    remaining: tuple[float, ...]
    """What is left for each claim: of the bucket, of the budget, of the places. Never below 0."""
    reset_s: tuple[float, ...]
    """Until each claim's bucket is full again, its budget starts anew; 0 for slots."""


class Adjust(msgspec.Struct, frozen=True, array_like=True):
    """Corrects what a claim took to what was really used; a slot is given back."""

    claim: Claim
    actual_amount: float = 0.0


class Document(msgspec.Struct, frozen=True, array_like=True):
    """One version of something that every process must agree on, e.g. the policy document."""

    name: str
    version: int
    """From 1, without gaps."""
    content: bytes
    written_s: float
    """Epoch time, by the store's clock."""


class Store(Protocol):
    """Shared state. `router.state.open_store` makes one from the configuration."""

    @property
    def failure(self) -> str | None:
        """Why the store cannot be used at this moment; None when it can. Never holds a password or a URL with one."""

    def admit_at_once(self, claims: Sequence[Claim], *, holder: str) -> Verdict | None:
        """`admit` where no round trip is needed; None: `admit` has to be asked, nothing was taken."""

    def settle_at_once(self, adjustments: Sequence[Adjust], *, holder: str) -> bool:
        """`settle` where no round trip is needed; False: `settle` has to be called."""

    async def admit(self, claims: Sequence[Claim], *, holder: str) -> Verdict:
        """Take all claims or none, in one round trip.

        A claim belongs to its `(holder, kind, key)`, with a request for a holder: admitting it again (an answer was
        lost) takes nothing more. Claims of one call have distinct kinds or keys. Raises: StateUnavailable.
        """

    async def settle(self, adjustments: Sequence[Adjust], *, holder: str) -> None:
        """Correct claims to the real usage, once: a second call for the same `(holder, kind, key)` changes nothing.

        A budget is corrected in the day or month in which it was claimed. What was never claimed (the store was away)
        is charged in full. Does not raise: what the store cannot take now is kept, bounded, and delivered when it is
        back; only a process that dies meanwhile loses it.
        """

    async def renew(self, holders: Sequence[str]) -> None:
        """Restart the time to live of all slots that these holders have. Raises: StateUnavailable."""

    async def get(self, key: str) -> bytes | None:
        """A value that was put and has not expired or been displaced. Raises: StateUnavailable."""

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep a value; it may be displaced before its time. Raises: StateUnavailable."""

    async def read_document(self, name: str) -> Document | None:
        """The current version. Raises: StateUnavailable."""

    async def write_document(self, name: str, content: bytes, *, expected_version: int | None) -> Document:
        """Write the next version.

        Args:
            expected_version: the version that this one replaces, 0 for none; None replaces whatever there is.
        Raises:
            VersionConflict: somebody else was faster.
            StateUnavailable.
        """

    async def document_history(self, name: str, *, limit: int = HISTORY_LENGTH) -> list[Document]:
        """The last versions, the current one first. Raises: StateUnavailable."""

    def watch(self, name: str) -> AsyncIterator[Document]:
        """The current version, if there is one, and then each newer one that is seen, within a second of its writing.

        Outlives an unreachable store: it goes on when the store is back. Does not end.
        """
