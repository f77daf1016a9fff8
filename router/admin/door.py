"""Who gets into `/admin`, and what may be carried in: own keys, no foreign pages, small JSON bodies."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect

from router.admin.audit import Actor, Audit, AuditError
from router.admin.keys import AdminKeys, WrongKeys
from router.admission import Admission
from router.errors import (
    BodyTooLarge,
    Forbidden,
    InvalidRequest,
    RateLimited,
    Unauthorized,
    UnsupportedEncoding,
)

MAX_BODY_BYTES = 2**20

T = TypeVar("T")


class Door:
    """Every endpoint of `/admin` begins with `enter`."""

    def __init__(self, keys: AdminKeys, admission: Admission, audit: Audit, *, body_timeout_s: float) -> None:
        """
        Args:
            keys: of the environment.
            admission: knows the keys that `locum keys` has made; those with the scope `admin` open the door as well.
        """
        self._keys = keys
        self._admission = admission
        self._wrong = WrongKeys()
        self._audit = audit
        self._body_timeout_s = body_timeout_s

    async def enter(self, request: Request) -> Actor:
        """Whose key it is. Raises: Forbidden, RateLimited, Unauthorized."""
        if _is_from_foreign_page(request):
            raise Forbidden("Pages of other sites may not use the admin API.", code="origin_not_allowed")
        address = request.client.host if request.client else ""
        wait_s = self._wrong.wait_s(address)
        if wait_s > 0:
            raise RateLimited("Too many wrong admin keys from this address.", retry_after_s=math.ceil(wait_s))
        try:
            return self._actor_of(request)
        except (Unauthorized, Forbidden):
            self._wrong.note(address)
            await self._write_down(request, address)
            raise

    def _actor_of(self, request: Request) -> Actor:
        """Raises: Unauthorized; Forbidden: a key without this scope, or one that has ended."""
        with suppress(Unauthorized):
            return self._keys.actor_of(request.headers.get("authorization"))
        caller = self._admission.identify(request.headers.raw, "admin")
        return Actor(caller.key_name, caller.key_end)

    async def _write_down(self, request: Request, address: str) -> None:
        """A wrong key; a log that cannot be written must not turn the 401 into something else."""
        detail = f"{request.method} {request.url.path[:100]} from {address[:64]}"
        try:
            await asyncio.to_thread(self._audit.record, Actor("unknown"), "wrong_key", "refused", detail=detail)
        except AuditError:
            return

    async def body(self, request: Request) -> bytes:
        """Raises: InvalidRequest (415, 408), BodyTooLarge."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedEncoding("Send the body as content-type: application/json.")
        if request.headers.get("content-encoding", "identity") != "identity":
            raise UnsupportedEncoding("Send the body uncompressed: content-encoding is not supported.")
        data = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > MAX_BODY_BYTES:
                        raise BodyTooLarge(MAX_BODY_BYTES)
        except (TimeoutError, ClientDisconnect) as exc:
            late = InvalidRequest("The body did not arrive within server.body_timeout_s.", code="body_timeout")
            late.status = 408
            raise late from exc
        return bytes(data)

    async def read(self, request: Request, kind: type[T]) -> T:
        """The body as a struct. Raises: InvalidRequest: `param` names the field."""
        try:
            return msgspec.json.decode(await self.body(request), type=kind)
        except msgspec.ValidationError as exc:
            message, _, place = str(exc).partition(" - at `$")
            param = place.strip(".`") or None
            raise InvalidRequest(f"{param or 'The body'}: {message}.", param=param) from exc
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise InvalidRequest(f"The body is not valid JSON: {exc}.", code="invalid_json") from exc


def _is_from_foreign_page(request: Request) -> bool:
    """Whether a browser sent it for a page of another origin. Other clients send neither of the two headers."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return True
    return request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
