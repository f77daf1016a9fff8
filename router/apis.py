"""The APIs that a backend may be asked in: where a request goes, and what the gateway reads in the answer.

The answer itself is passed on untouched, or by a dialect's translation; see `router/dialects/base.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from router.answers import Meaning, meaning_of
from router.sse import DONE_FRAME, ChatStreamReader, Delta

ApiName = Literal["chat", "completions", "responses", "messages"]


class StreamReader(Protocol):
    """What one API's stream means to the router; one reader a stream."""

    ending: bytes | None
    """What a client waits for behind the last event, to be added when the backend forgot it; None: an event of the
    answer is the end, and without it the stream is cut off."""

    def is_ordinary(self, block: bytes) -> bool:
        """Whether whole frames are nothing but text on its way to the client. True is certain."""

    def read(self, frame: bytes) -> Delta:
        """One frame."""

    def text_of(self, block: bytes) -> str:
        """The text that whole frames add to the first choice."""


class ReadMeaning(Protocol):
    def __call__(self, body: bytes, *, detailed: bool = False) -> Meaning | None:
        """None when the body is not an answer."""


@dataclass(frozen=True, slots=True)
class BackendApi:
    """One API of a backend."""

    name: ApiName
    path: bytes
    """Below the backend's base URL."""
    meaning_of: ReadMeaning
    reader: Callable[[bool], StreamReader]
    """Takes whether usage is hidden from the client."""


CHAT = BackendApi("chat", b"/chat/completions", meaning_of, ChatStreamReader)
COMPLETIONS = BackendApi("completions", b"/completions", meaning_of, ChatStreamReader)

__all__ = ["CHAT", "COMPLETIONS", "DONE_FRAME", "ApiName", "BackendApi", "StreamReader"]
