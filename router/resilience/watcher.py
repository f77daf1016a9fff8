"""Somebody who follows the attempts at one request: what they take of a machine, or a trace of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from router.resilience.attempts import Attempt


class Watcher(Protocol):
    """Told by every attempt at the request."""

    def began(self, attempt: Attempt) -> None:
        """The backend is about to be called."""

    def answered(self, attempt: Attempt) -> None:
        """The first event, or the whole of a plain answer, has come."""

    def ended(self, attempt: Attempt, cause: str | None) -> None:
        """Once for each attempt. `cause`: why it failed, or `abandoned`."""
