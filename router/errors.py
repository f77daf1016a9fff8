"""One error tree, and the one mapper from it to OpenAI's error JSON (plain bodies and SSE frames alike).

LocumError                    500
├── InvalidRequest            400  the body, a header or a field is wrong; `param` names it
│   ├── BodyTooLarge          413
│   ├── UnsupportedEncoding   415
│   └── ModelNotFound         404
├── Unauthorized              401
├── Forbidden                 403  the key is expired or revoked, or may not do this
├── RateLimited               429  a limit of the tenant, or of the only backend that may answer; carries Retry-After
│   └── BudgetSpent           429  the tenant's budget is spent until the next day or month
├── NoRoute                   503  no backend can answer now; carries Retry-After
│   ├── Overloaded            503  the gateway itself is full
│   └── ShuttingDown          503  the drain time is over
├── StateUnavailable          503  the shared state is out of reach, and what needs it is configured to fail closed
├── VersionConflict           409  somebody else wrote the document first
└── BackendError              502  a backend failed; `cause` is one of `Cause`, never free text
    ├── BackendUnreachable         connection refused, reset, name not found
    ├── BackendTimeout        504  a phase took too long
    ├── BackendRefused             an HTTP status that says that it cannot answer
    └── BackendBroken              it answered with something that is not an answer
"""

from __future__ import annotations

from typing import Literal

import msgspec

Cause = Literal[
    "connect_error",
    "breaker_open",
    "disconnected",
    "timeout",
    "server_error",
    "rate_limited",
    "unauthorized",
    "payment_required",
    "model_not_found",
    "context_overflow",
    "invalid_response",
    "refused",
    "stream_error",
]


class LocumError(Exception):
    """Base of every error that a client may see. Its message never holds a prompt, a key or a header value."""

    status = 500
    type = "server_error"
    code: str | None = "internal_error"
    param: str | None = None
    retry_after_s: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Sent with the response, beside Retry-After."""


class InvalidRequest(LocumError):
    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class BodyTooLarge(InvalidRequest):
    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The request body is larger than {limit_bytes} bytes (server.max_body_bytes).",
            code="request_too_large",
        )


class UnsupportedEncoding(InvalidRequest):
    status = 415


class ModelNotFound(InvalidRequest):
    status = 404

    def __init__(self, model: str, known: list[str]) -> None:
        super().__init__(
            f"The model {model[:100]!r} does not exist. Use one of: {', '.join(known)}.",
            param="model",
            code="model_not_found",
        )


class Unauthorized(LocumError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(LocumError):
    status = 403
    type = "invalid_request_error"

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class RateLimited(LocumError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BudgetSpent(RateLimited):
    type = "insufficient_quota"
    code = "insufficient_quota"


class NoRoute(LocumError):
    status = 503
    type = "service_unavailable"
    code = "no_backend_available"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(NoRoute):
    code = "overloaded"


class ShuttingDown(NoRoute):
    code = "shutting_down"


class StateUnavailable(LocumError):
    """`StateConfig.on_failure` says per feature whether a request goes on without it."""

    status = 503
    type = "service_unavailable"
    code = "state_unavailable"
    retry_after_s = 1


class VersionConflict(LocumError):
    """Attributes: current_version (0: there is no document)."""

    status = 409
    type = "invalid_request_error"
    code = "version_conflict"

    def __init__(self, name: str, *, expected_version: int, current_version: int) -> None:
        super().__init__(
            f"The {name} is at version {current_version}, not {expected_version}: read it again, then retry."
        )
        self.current_version = current_version


class BackendError(LocumError):
    """A backend failed before or after the first byte.

    Attributes:
        cause: bounded; labels `router_fallbacks_total` and forms the reason `fallback_<cause>`.
    """

    status = 502
    type = "backend_error"

    def __init__(self, message: str, *, cause: Cause, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.cause: Cause = cause
        self.code = cause
        self.retry_after_s = retry_after_s


class BackendUnreachable(BackendError):
    """No connection, or it broke."""


class BackendTimeout(BackendError):
    """A phase of the call took too long."""

    status = 504


class BackendRefused(BackendError):
    """The backend answered with a status that rules out an answer from it."""


class BackendBroken(BackendError):
    """The backend's answer is not one."""


def error_body(error: LocumError) -> bytes:
    """OpenAI's error JSON."""
    return msgspec.json.encode(
        {
            "error": {
                "message": str(error) or "Internal error.",
                "type": error.type,
                "param": error.param,
                "code": error.code,
            }
        }
    )


def error_frame(error: LocumError) -> bytes:
    """The same as a server-sent event, for a stream that has begun."""
    return b"data: " + error_body(error) + b"\n\n"
