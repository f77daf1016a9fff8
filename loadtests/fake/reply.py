"""What goes back for one request, and the failures among it."""

from __future__ import annotations

import msgspec

from loadtests.fake.answers import error_body
from loadtests.fake.scenario import Scenario
from loadtests.fake.state import BackendState

HEALTHY = Scenario()
JSON = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"

_encode = msgspec.json.Encoder().encode
_ERROR_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}


class Reply(msgspec.Struct):
    """What goes back. `events` makes it a stream; then `body` is empty."""

    status: int = 200
    body: bytes = b""
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    events: list[bytes] | None = None
    """Complete SSE events, line ends included."""
    lead_events: int = 0
    """Events before the first content chunk; faults count from there."""
    scenario: Scenario = HEALTHY
    is_control: bool = False
    """Answers of the fake's own endpoints are neither counted nor remembered."""


def failure(scenario: Scenario, state: BackendState) -> Reply:
    status = scenario.status
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if scenario.retry_after_s is not None:
        headers = ((b"retry-after", str(scenario.retry_after_s).encode()),)
    content_type = JSON
    if scenario.error == "string":
        body = _encode({"error": "Unauthorized"})
    elif scenario.error == "html":
        content_type = b"text/html"
        body = b"<html><head><title>%d</title></head><body><center>proxy error</center></body></html>\r\n" % status
    elif scenario.error == "context":
        window = state.window_tokens
        body = error_body(
            f"This model's maximum context length is {window} tokens. However, your prompt contains at least "
            f"{window + 1} input tokens, which exceeds this limit even without any output tokens. Please reduce "
            "the length of the input prompt.",
            "BadRequestError",
            400,
            "input_tokens",
        )
    else:
        body = error_body(f"The fake backend was told to fail with {status}.", _error_type(status), status)
    return Reply(status=status, body=body, content_type=content_type, headers=headers, scenario=scenario)


def refusal(status: int, message: str, param: str | None = None) -> Reply:
    return Reply(status=status, body=error_body(message, _error_type(status), status, param))


def engine_error() -> bytes:
    return error_body("EngineCore encountered an issue.", "InternalServerError", 500)


def _error_type(status: int) -> str:
    return _ERROR_TYPES.get(status, "InternalServerError" if status >= 500 else "BadRequestError")
