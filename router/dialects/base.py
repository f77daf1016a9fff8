"""What an endpoint is to the gateway: how its requests are read, put to a backend, and answered in the client's form.

Policies, cascade, traffic log and trainer know one form of request: a chat completion. A dialect that has another one
translates it at the edge, both ways; what is a chat completion already passes byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from router.apis import BackendApi
from router.errors import InvalidRequest, LocumError, error_body, error_frame

if TYPE_CHECKING:
    from router.chat import ChatRequest
    from router.http_client import Headers

MAX_REFUSAL_CHARS = 1000


class Translation(Protocol):
    """Turns one chat answer into the client's dialect; made for one attempt, and thrown away with it.

    Of a stream that has begun, exactly one of `end` and `error` is the last call.
    """

    def plain(self, answer: dict[str, Any]) -> bytes:
        """A whole chat completion as the client's body."""

    def feed(self, chunk: dict[str, Any]) -> bytes:
        """The client's events for one chunk of a chat stream; may be empty."""

    def end(self) -> bytes:
        """The client's last events of a complete stream."""

    def error(self, error: LocumError) -> bytes:
        """The client's last events of a stream that was cut off."""


class Outgoing(NamedTuple):
    """A request as it is put to one backend."""

    api: BackendApi
    body: bytes
    hides_usage: bool
    """Streams: the client did not ask for the usage that we read."""
    translation: Translation | None = None
    """None: the answer passes untouched."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One endpoint's API as clients speak it."""

    path: str
    parse: Callable[[bytes, Headers], ChatRequest]
    """Raises: InvalidRequest."""
    error_body: Callable[[LocumError], bytes] = error_body
    error_frame: Callable[[LocumError], bytes] = error_frame
    passes_refusals: bool = True
    """Whether a backend's 4xx is in the client's form already."""


def refusal_of(status: int, body: bytes) -> InvalidRequest:
    """A backend's 4xx as an error of ours, for clients that cannot have it as it is."""
    try:
        stated = msgspec.json.decode(body)["error"]
        message = stated if isinstance(stated, str) else stated["message"]
        param = None if isinstance(stated, str) else stated.get("param")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
        message, param = f"The backend refused the request with status {status}.", None
    refused = InvalidRequest(
        str(message)[:MAX_REFUSAL_CHARS], param=param if isinstance(param, str) else None, code="refused_by_backend"
    )
    refused.status = status
    return refused
