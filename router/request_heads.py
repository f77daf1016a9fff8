"""Which heads of requests are refused before anybody looks at what they ask for."""

from __future__ import annotations

from router.errors import InvalidRequest
from router.http_client import Headers

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together; also the longest run of bytes that tells the parser nothing (trailers, chunk
extensions, blank lines)."""
HEADER_OVERHEAD_BYTES = 4
"""Colon, blank and line break: a head of many tiny headers is bounded as well."""


def check_size(url: bytes, headers: Headers) -> None:
    """Raises: HeadTooLarge."""
    size = len(url) + sum(len(name) + len(value) + HEADER_OVERHEAD_BYTES for name, value in headers)
    if size > MAX_HEAD_BYTES:
        raise HeadTooLarge


def check_unambiguous(version: str, headers: Headers) -> None:
    """What a proxy before us may read in another way is how a second request is smuggled past it.

    Raises: AmbiguousHead.
    """
    names = [name for name, _ in headers]
    if version not in ("1.0", "1.1"):
        raise AmbiguousHead("Speak HTTP/1.1.")
    if names.count(b"host") > 1 or (version == "1.1" and b"host" not in names):
        raise AmbiguousHead("A request must have exactly one Host header.")
    if b"transfer-encoding" in names:
        codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
        if codings != [b"chunked"] or version == "1.0":
            raise AmbiguousHead("The only transfer coding is 'chunked', and HTTP/1.0 has none.")


class HeadTooLarge(InvalidRequest):
    """Found before authentication: nobody is served a larger head."""

    status = 431

    def __init__(self) -> None:
        super().__init__(f"The request's headers are larger than {MAX_HEAD_BYTES} bytes.", code="headers_too_large")


class AmbiguousHead(InvalidRequest):
    """RFC 9112 has it refused, or treated as faulty, and the parser does not."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="invalid_http")
