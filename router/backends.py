"""Calls one model endpoint. Whatever goes wrong before the first byte for the client is a `BackendError`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Self, TypeAlias

import msgspec

from policies.base import Route
from router.additions import NOTHING, Additions
from router.config import BackendConfig, ConfigError
from router.errors import BackendBroken, BackendRefused, BackendUnreachable, Cause
from router.http_client import Headers, HttpClient, HttpError, Response, Sink
from router.machine import MachineClock
from router.pricing import price_of
from router.tls import backend_context

Role: TypeAlias = Route | Literal["embeddings"]
"""What a backend is there for. Embeddings are asked for by name: no policy routes them."""
_REQUEST_HEADERS = frozenset({b"traceparent", b"tracestate", b"x-request-id", b"openai-beta"})
"""Headers of a client that reach a backend. Never its authorization: that is between the client and us."""
_RESPONSE_HEADERS = (b"x-request-id", b"openai-", b"x-ratelimit-", b"retry-after")
_REFUSALS: dict[int, Cause] = {
    401: "unauthorized",
    402: "payment_required",
    403: "unauthorized",
    404: "model_not_found",
    429: "rate_limited",
}
_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
MAX_RETRY_AFTER_S = 3600
MAX_MESSAGE_CHARS = 500
KEEP_ALIVE_S = 4.0
"""Idle connections expire before servers close them; the race that remains is retried."""
LINGER_S = 0.5
"""How long a backend may take to end a body whose last event has arrived, before its connection is given up."""


class Answer:
    """A backend's response whose status has arrived and which can be passed on."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self.status = response.status
        headers = dict(response.headers)
        self.headers: Headers = [header for header in response.headers if header[0].startswith(_RESPONSE_HEADERS)]
        self.content_type = headers.get(b"content-type", b"application/json")
        self.retry_after_s = parse_retry_after(headers.get(b"retry-after")) if b"retry-after" in headers else None
        self.refusal: bytes | None = None
        """The body, when it had to be read to sort a refusal."""
        if headers.get(b"content-encoding", b"identity") != b"identity":
            response.close()
            raise BackendBroken("the answer is compressed, which was not asked for", cause="invalid_response")

    @property
    def is_event_stream(self) -> bool:
        return self.content_type.lower().startswith(b"text/event-stream")

    async def read(self) -> bytes:
        """The bytes that have arrived, at least one; empty at the end. Raises: BackendUnreachable."""
        try:
            return await self._response.read()
        except HttpError as exc:
            raise BackendUnreachable(str(exc), cause="disconnected") from exc

    def divert(self, sink: Sink) -> None:
        """Have what arrives taken by `sink` at once; see `Response.divert`."""
        self._response.divert(sink)

    def unread(self) -> bytes:
        """What has arrived behind the last `read`; it stays there."""
        return self._response.unread()

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body. Raises: BackendBroken when it exceeds the limit, BackendUnreachable when it breaks off."""
        if self.refusal is not None:
            return self.refusal
        chunks: list[bytes] = []
        size = 0
        while not self._response.finished:
            chunk = await self.read()
            size += len(chunk)
            if size > limit_bytes:
                raise BackendBroken("the answer is larger than server.max_response_bytes", cause="invalid_response")
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def release(self) -> None:
        """Let the connection be used again if the backend ends the body promptly; else give it up."""
        if self._response.ended:
            return
        try:
            async with asyncio.timeout(LINGER_S):
                await self._response.read()
        except (TimeoutError, HttpError):
            pass
        self._response.close()

    def close(self) -> None:
        """Give the connection up, which cancels an unfinished generation; nothing happens after the end."""
        self._response.close()


class Backend:
    """One model behind one base URL."""

    def __init__(
        self,
        route: Role,
        config: BackendConfig,
        environ: Mapping[str, str] = os.environ,
        *,
        name: str | None = None,
        wanted: Additions = NOTHING,
        machine: MachineClock | None = None,
    ) -> None:
        """
        Args:
            name: label in metrics and `/readyz`; default: the route.
            machine: that serves it, where its time is priced.
        """
        self.route: Role = route
        self.name = name or route
        self.config = config
        self.wanted = wanted
        """What plain answers shall bring along beside the answer."""
        self.price = price_of(config)
        self.machine = machine
        self.window_tokens = config.context_window_tokens
        self.reachable: bool | None = None
        """What the last probe saw; None before the first."""
        self.was_reachable = False
        """Whether any probe has reached it."""
        self.tls = backend_context(config.tls, route) if config.base_url.startswith("https:") else None
        key = _key(config, route, environ)
        self.auth_headers: dict[str, str] = {"authorization": f"Bearer {key}"} if key else {}

    @property
    def exists(self) -> bool:
        """False for a student that is still to be promoted or loaded."""
        return True

    async def __aenter__(self) -> Self:
        self._client = HttpClient(
            self.config.base_url,
            connect_timeout_s=self.config.connect_timeout_s,
            max_connections=self.config.max_connections,
            keep_alive_s=KEEP_ALIVE_S,
            tls=self.tls,
        )
        fixed = [(b"content-type", b"application/json"), (b"accept-encoding", b"identity")]
        fixed += [(name.encode(), value.encode("latin-1")) for name, value in self.auth_headers.items()]
        self._fixed_headers = fixed
        self._heads: dict[bytes, bytes] = {}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    def call(self, path: bytes, body: bytes, client_headers: Headers) -> Call:
        """`async with backend.call(...) as answer`: leaving the block gives up what was not read to its end."""
        return Call(self, path, body, client_headers)

    async def post(self, path: bytes, body: bytes, client_headers: Headers) -> Answer:
        """Post a request and wait for the status line. The caller closes the answer, whatever it has read of it.

        A kept-alive connection may turn out to be closed: that costs one more try, on another connection.

        Args:
            path: of the API, below the base URL; one of a few constants.

        Returns:
            An answer with status 2xx, or a refusal of the request itself (400, 413, 422 and the like) that belongs to
            the client.
        Raises:
            BackendError: another backend may do better.
        """
        headers = [header for header in client_headers if header[0] in _REQUEST_HEADERS]
        head = self._heads.get(path) or self._head(path)
        while True:
            try:
                response = await self._client.post(head, headers, body)
                break
            except HttpError as exc:
                if not exc.retriable:
                    cause: Cause = "disconnected" if exc.connected else "connect_error"
                    raise BackendUnreachable(str(exc), cause=cause) from exc
        answer = Answer(response)
        return answer if answer.status < 300 else await self._refusal(answer)

    def _head(self, path: bytes) -> bytes:
        head = self._heads[path] = self._client.head(path, self._fixed_headers)
        return head

    async def _refusal(self, answer: Answer) -> Answer:
        """Sort a status of 300 and above: this backend's trouble is raised, the client's own is returned."""
        if answer.status in (400, 413) and self.route == "student":
            try:
                answer.refusal = await answer.body(limit_bytes=2**20)
            finally:
                answer.close()
            if _is_context_overflow(answer.refusal):
                raise BackendRefused(_overflow_message(answer.refusal), cause="context_overflow")
            return answer
        cause = _REFUSALS.get(answer.status)
        if cause is None and (answer.status >= 500 or answer.status < 400 or answer.status == 408):
            cause = "server_error"
        if cause is None:
            return answer
        answer.close()
        raise BackendRefused(f"status {answer.status}", cause=cause, retry_after_s=answer.retry_after_s)


class AbsentStudent(Backend):
    """Stands where no student serves yet: it fails every call at once, so that the teacher answers."""

    def __init__(self, config: BackendConfig) -> None:
        super().__init__("student", config, {})
        self.reachable = False

    @property
    def exists(self) -> bool:
        return False

    async def post(self, path: bytes, body: bytes, client_headers: Headers) -> Answer:
        raise BackendUnreachable("no student is loaded", cause="connect_error")


class Call:
    """One call of a backend; on the way out the connection goes back to the pool or is closed."""

    __slots__ = ("_answer", "_backend", "_body", "_headers", "_path")

    def __init__(self, backend: Backend, path: bytes, body: bytes, headers: Headers) -> None:
        self._backend = backend
        self._path = path
        self._body = body
        self._headers = headers

    async def __aenter__(self) -> Answer:
        self._answer = await self._backend.post(self._path, self._body, self._headers)
        return self._answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answer.close()


def _key(config: BackendConfig, route: Role, environ: Mapping[str, str]) -> str | None:
    """The backend's key; a mounted secret often ends in a line break. Raises: ConfigError, without the key in it."""
    if config.api_key_env is None or config.api_key_env not in environ:
        return None
    key = environ[config.api_key_env].strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{route}.api_key_env",
            [f"the value of {config.api_key_env} is empty or has characters that no HTTP header can hold"],
        )
    return key


def parse_retry_after(value: bytes | None) -> int | None:
    """Seconds of a Retry-After header, bounded; HTTP dates are not used by model servers and count as absent."""
    if value is None or not value.strip().isdigit():
        return None
    return min(int(value.strip()[:6]), MAX_RETRY_AFTER_S)


def _overflow_message(body: bytes) -> str:
    """In the backend's words: they hold the limit."""
    message = msgspec.json.decode(body)["error"].get("message")
    return message[:MAX_MESSAGE_CHARS] if isinstance(message, str) and message else "The request is too long."


def _is_context_overflow(body: bytes) -> bool:
    """vLLM says `param: "input_tokens"` with an integer `code`; OpenAI and llama.cpp have a code or type for it."""
    try:
        error = msgspec.json.decode(body)["error"]
        known = {error.get("code"), error.get("type")} & _CONTEXT_CODES
        return bool(known) or error.get("param") == "input_tokens" or "context length" in str(error.get("message"))
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return False
