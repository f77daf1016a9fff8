"""How a request ends that gets no answer: the client's error, its headers, and the outcome in the record."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from policies.record import Outcome
from router.errors import (
    BackendTimeout,
    BudgetSpent,
    Forbidden,
    InvalidRequest,
    LocumError,
    NoRoute,
    Overloaded,
    RateLimited,
    ShuttingDown,
    StateUnavailable,
    Unauthorized,
)
from router.exchange import ClientGone
from router.http_client import Headers
from router.resilience.attempts import Attempts
from router.resilience.deadline import Deadline

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""Status in the record of a request whose client left; nobody receives it."""


class Ended(Protocol):
    """What is known about a request that ends."""

    decision_id: str
    body_read_s: float | None


def outcome_of(error: LocumError, *, admitted: bool) -> Outcome:
    """What the record says of a request that ended in this error."""
    match error:
        case BackendTimeout():
            return "timeout"
        case InvalidRequest():
            return "client_error"
        case Overloaded() | ShuttingDown() | Unauthorized() | Forbidden() | BudgetSpent() | StateUnavailable():
            return "rejected"
        case RateLimited() if not admitted:
            return "rejected"
        case _:
            return "backend_error"


def too_slow(*, body_read: bool) -> LocumError:
    """The request's own time is over."""
    if not body_read:
        late = InvalidRequest("The request body did not arrive within server.body_timeout_s.", code="body_timeout")
        late.status = 408
        return late
    return BackendTimeout("Not answered within server.request_timeout_s.", cause="timeout")


def error_of(raised: Exception | asyncio.CancelledError, state: Ended, *, client_gone: bool) -> LocumError | None:
    """What a request that was left by an exception ends with; None: its client has gone.

    An exception that nobody expected is logged, and hidden from the client.
    """
    match raised:
        case LocumError():
            return raised
        case TimeoutError():
            return too_slow(body_read=state.body_read_s is not None)
        case ClientGone():
            return None
        case asyncio.CancelledError() if client_gone:
            return None
        case asyncio.CancelledError():  # the server's drain time is over
            return ShuttingDown("The gateway is shutting down.", retry_after_s=1)
    logger.error("request %s failed inside the gateway", state.decision_id, exc_info=raised)
    return LocumError("Internal error; the gateway's log says more.")


def unavailable(attempts: Attempts, deadline: Deadline, *, retry_after_s: int) -> LocumError:
    """Nobody who may answer could.

    Args:
        retry_after_s: where no backend has named a moment.
    """
    if not deadline.left_s():
        return too_slow(body_read=True)
    retry_after_s = attempts.retry_after_s or retry_after_s
    if attempts.only_rate_limited:
        return RateLimited("Every model that may answer this request is rate limited.", retry_after_s=retry_after_s)
    failure = attempts.failure
    if failure is not None and failure.cause == "context_overflow":  # waiting makes no request shorter
        return InvalidRequest(str(failure), param="messages", code="context_length_exceeded")
    cause = failure.cause if failure is not None else "no_backend"
    return NoRoute(f"No backend can answer this request now ({cause}).", retry_after_s=retry_after_s)


def error_headers(error: LocumError) -> Headers:
    """Of the response that says it."""
    headers = [*error.headers, (b"content-type", b"application/json")]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers
