"""Calls one model endpoint. Whatever goes wrong before the first byte for the client is a `BackendError`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
from aiohttp import ClientTimeout, hdrs

from policies.base import Route
from router.config import BackendConfig
from router.errors import BackendBroken, BackendRefused, BackendTimeout, BackendUnreachable, Cause
from router.pricing import price_of

Headers = list[tuple[bytes, bytes]]

_REQUEST_HEADERS = frozenset({b"traceparent", b"tracestate", b"x-request-id", b"openai-beta"})
"""Headers of a client that reach a backend. Never its authorization: that is between the client and us."""
_RESPONSE_HEADERS = ("x-request-id", "openai-", "x-ratelimit-", "retry-after")
_REFUSALS: dict[int, Cause] = {401: "unauthorized", 403: "unauthorized", 404: "model_not_found", 429: "rate_limited"}
_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
MAX_RETRY_AFTER_S = 3600
LINGER_S = 0.5
"""How long a backend may take to end a body whose last event has arrived, before its connection is given up."""


class Answer:
    """A backend's response whose status has arrived and which can be passed on."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
            for name, value in response.headers.items()
            if name.lower().startswith(_RESPONSE_HEADERS)
        ]
        self.content_type = response.headers.get(hdrs.CONTENT_TYPE, "application/json")
        self.refusal: bytes | None = None
        """The body, when it had to be read to sort a refusal."""

    @property
    def is_event_stream(self) -> bool:
        return self.content_type.startswith("text/event-stream")

    async def read(self) -> bytes:
        """The bytes that have arrived, at least one; empty at the end. Raises: BackendUnreachable."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as exc:
            raise BackendUnreachable(_kind(exc), cause="disconnected") from exc

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body. Raises: BackendBroken when it exceeds the limit, BackendUnreachable when it breaks off."""
        if self.refusal is not None:
            return self.refusal
        chunks: list[bytes] = []
        size = 0
        while chunk := await self.read():
            size += len(chunk)
            if size > limit_bytes:
                raise BackendBroken("the answer is larger than server.max_response_bytes", cause="invalid_response")
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def release(self) -> None:
        """Let the connection be used again if the backend ends the body promptly; else give it up."""
        if not self._response.content.at_eof():
            try:
                async with asyncio.timeout(LINGER_S):
                    if await self._response.content.readany():
                        self._response.close()
            except (TimeoutError, aiohttp.ClientError, OSError):
                self._response.close()
        self._response.release()

    def close(self) -> None:
        """Give the connection up, which cancels an unfinished generation; nothing happens after the end."""
        self._response.close()


class Backend:
    """One model behind one base URL.

    The connection pool expires idle connections after `KEEP_ALIVE_S`, before servers do; the race that remains is
    covered by one retry on a connection that broke before any answer.
    """

    KEEP_ALIVE_S = 4.0

    def __init__(self, route: Route, config: BackendConfig, environ: Mapping[str, str] = os.environ) -> None:
        self.route: Route = route
        self.config = config
        self.price = price_of(config)
        self.window_tokens = config.context_window_tokens
        self.reachable: bool | None = None
        """What the last probe saw; None before the first."""
        self._url = f"{config.base_url}/chat/completions"
        key = environ.get(config.api_key_env) if config.api_key_env else None
        self.auth_headers: dict[str, str] = {"authorization": f"Bearer {key}"} if key else {}
        self._fixed_headers = {"content-type": "application/json", "accept-encoding": "identity", **self.auth_headers}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.config.max_connections, keepalive_timeout=self.KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=ClientTimeout(total=None, sock_connect=self.config.connect_timeout_s),
            skip_auto_headers=("user-agent", "accept"),
            read_bufsize=2**16,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def call(self, body: bytes, client_headers: Headers) -> Call:
        """`async with backend.call(...) as answer`: leaving the block gives up what was not read to its end."""
        return Call(self, body, client_headers)

    async def post(self, body: bytes, client_headers: Headers) -> Answer:
        """Post a chat completion and wait for the status line.

        Returns:
            An answer with status 2xx, or a refusal of the request itself (400, 413, 422 and the like) that belongs to
            the client.
        Raises:
            BackendError: another backend may do better.
        """
        headers = self._fixed_headers
        passed = {name.decode(): value.decode("latin-1") for name, value in client_headers if name in _REQUEST_HEADERS}
        if passed:
            headers = headers | passed
        try:
            response = await self._post(body, headers)
        except TimeoutError as exc:
            raise BackendTimeout(f"no connection within {self.config.connect_timeout_s} s", cause="timeout") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            connected = isinstance(exc, _BROKEN) and not isinstance(exc, aiohttp.ClientConnectorError)
            cause: Cause = "disconnected" if connected else "connect_error"
            raise BackendUnreachable(_kind(exc), cause=cause) from exc
        if response.status < 300:
            return Answer(response)
        return await self._refusal(response)

    async def _post(self, body: bytes, headers: dict[str, str]) -> aiohttp.ClientResponse:
        for last_try in (False, True):
            try:
                return await self._session.post(self._url, data=body, headers=headers, allow_redirects=False)
            except _BROKEN:
                if last_try:
                    raise
        raise AssertionError("unreachable")

    async def _refusal(self, response: aiohttp.ClientResponse) -> Answer:
        """Sort a status of 300 and above: this backend's trouble is raised, the client's own is returned."""
        retry_after_s = parse_retry_after(response.headers.get(hdrs.RETRY_AFTER))
        if response.status in (400, 413) and self.route == "student":
            answer = Answer(response)
            answer.refusal = await answer.body(limit_bytes=2**20)
            if _is_context_overflow(answer.refusal):
                raise BackendRefused("the request exceeds the context window", cause="context_overflow")
            return answer
        cause = _REFUSALS.get(response.status)
        if cause is None and (response.status >= 500 or response.status < 400 or response.status == 408):
            cause = "server_error"
        if cause is None:
            return Answer(response)
        response.close()
        raise BackendRefused(f"status {response.status}", cause=cause, retry_after_s=retry_after_s)


class Call:
    """One call of a backend; on the way out the connection goes back to the pool or is closed."""

    __slots__ = ("_answer", "_backend", "_body", "_headers")

    def __init__(self, backend: Backend, body: bytes, headers: Headers) -> None:
        self._backend = backend
        self._body = body
        self._headers = headers

    async def __aenter__(self) -> Answer:
        self._answer = await self._backend.post(self._body, self._headers)
        return self._answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answer.close()


_BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


def parse_retry_after(value: str | None) -> int | None:
    """Seconds of a Retry-After header, bounded; HTTP dates are not used by model servers and count as absent."""
    if value is None or not value.strip().isdecimal():
        return None
    return min(int(value.strip()[:6]), MAX_RETRY_AFTER_S)


def _is_context_overflow(body: bytes) -> bool:
    """vLLM says `param: "input_tokens"` with an integer `code`; OpenAI and llama.cpp have a code or type for it."""
    try:
        error = msgspec.json.decode(body)["error"]
        known = {error.get("code"), error.get("type")} & _CONTEXT_CODES
        return bool(known) or error.get("param") == "input_tokens" or "context length" in str(error.get("message"))
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return False


def _kind(exc: BaseException) -> str:
    """An exception without its details, which may hold addresses."""
    return type(exc).__name__
