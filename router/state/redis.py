"""`redis://`: the state of several machines. Every change is one script, which Redis runs alone."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import msgspec
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from router.config.state import RedisAddress, StateConfig, redis_address
from router.state.base import HISTORY_LENGTH, SLOT_RETRY_S, Document
from router.state.ledger import HELD_S, SETTLED_S
from router.state.lookup import Lookup
from router.state.operations import Operation, Probe, Write
from router.tls import client_context

CONNECT_TIMEOUT_S = 0.5
"""Of the probe, beside the requests; a request waits `state.timeout_s` for all."""
MAX_CONNECTIONS = 16

REASONS: tuple[tuple[type[Exception], str], ...] = (
    (ssl.SSLCertVerificationError, "the certificate of Redis is not trusted (state.tls_ca_file)"),
    (ssl.SSLError, "no TLS connection to Redis can be made"),
    (exceptions.AuthenticationError, "Redis refuses the user or the password"),
    (exceptions.AuthorizationError, "Redis refuses the user or the password"),
    (exceptions.NoPermissionError, "Redis denies this user what the gateway needs"),
    (exceptions.BusyLoadingError, "Redis loads its data"),
    (exceptions.ReadOnlyError, "Redis is a read-only replica"),
    (exceptions.OutOfMemoryError, "Redis is out of memory"),
    (exceptions.TimeoutError, "timeout"),
    (exceptions.ConnectionError, "Redis cannot be reached"),
    (exceptions.ResponseError, "Redis answers with an error"),
    (exceptions.RedisError, "Redis does not answer as expected"),
    (OSError, "Redis cannot be reached"),
)


class WriteNext(msgspec.Struct, frozen=True, array_like=True, tag="write"):
    """`Write` for the script, whose MessagePack knows no bytes: the contents follow as arguments of their own."""

    name: str
    expected_version: int


class RedisWire:
    """`Wire` to a Redis server, 6.2 or newer, or one that speaks like it."""

    def __init__(
        self, config: StateConfig, environ: Mapping[str, str], *, clock: Callable[[], float] | None = None
    ) -> None:
        """
        Args:
            clock: epoch time in seconds, instead of the server's; for tests.
        Raises:
            ConfigError: `state.tls_ca_file` cannot be used.
        """
        self._clock = clock
        self._prefix = "{" + config.key_prefix + "}"
        self._timeout_s = config.timeout_s
        address = redis_address(config.url)
        self._lookup = Lookup(address.host, address.port)
        self._pool = _pool(address, config, environ)
        self._redis: Redis = Redis(connection_pool=self._pool)
        self._script = files("router.state").joinpath("script.lua").read_text(encoding="utf-8")
        self._digest = ""
        self._documents: dict[str, tuple[bytes, Document]] = {}

    async def probe(self) -> None:
        """New connections only: what is left of the old ones may lead to a server that is not the master any more."""
        await self._pool.disconnect(inuse_connections=False)
        await self._lookup.check(within_s=CONNECT_TIMEOUT_S)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            self._digest = await self._redis.script_load(self._script)
        async with asyncio.timeout(self._timeout_s):
            await self.run([Probe()])

    def reason_of(self, error: Exception) -> str | None:
        errors = (error.__cause__, error.__context__, error)  # redis-py wraps what goes wrong while it connects
        return next((reason for kind, reason in REASONS if any(isinstance(it, kind) for it in errors)), None)

    async def run(self, operations: Sequence[Operation]) -> list[Any]:
        """In one round trip, but for the first time after the server has forgotten its scripts."""
        contents = [operation.content for operation in operations if isinstance(operation, Write)]
        arguments = (
            1,
            self._prefix,
            msgspec.msgpack.encode([_for_script(operation) for operation in operations] if contents else operations),
            "" if self._clock is None else repr(self._clock()),
            int(HELD_S),
            int(SETTLED_S),
            SLOT_RETRY_S,
            HISTORY_LENGTH,
            *contents,
        )
        try:
            reply = await self._do("EVALSHA", self._digest, *arguments)
        except exceptions.NoScriptError:
            reply = await self._do("EVAL", self._script, *arguments)
        replies: list[Any] = msgspec.msgpack.decode(reply)
        return replies

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._do("GET", f"{self._prefix}:value:{key}")
        return value

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._do("SET", f"{self._prefix}:value:{key}", value, "PX", max(1, math.ceil(ttl_s * 1000)))

    async def read(self, name: str) -> Document | None:
        """Fetches the content only when the document has changed since the last time."""
        key = f"{self._prefix}:document:{name}"
        stamp: bytes | None = await self._do("GET", f"{key}:stamp")
        if stamp is None:
            return None
        kept = self._documents.get(name)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        newest: bytes | None = await self._do("LINDEX", key, 0)
        if newest is None:
            return None
        document = _document(name, newest)
        self._documents[name] = newest.partition(b"\n")[0], document
        return document

    async def history(self, name: str, limit: int) -> list[Document]:
        entries: list[bytes] = await self._do("LRANGE", f"{self._prefix}:document:{name}", 0, limit - 1)
        return [_document(name, entry) for entry in entries]

    async def _do(self, *command: Any) -> Any:
        return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        await self._pool.aclose()


class TlsConnection(SSLConnection):
    """By one context for all connections: redis-py would read the certificates for each of them, and trust the
    system's beside those that are named."""

    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = tls


def _for_script(operation: Operation) -> Operation | WriteNext:
    if isinstance(operation, Write):
        return WriteNext(operation.name, operation.expected_version)
    return operation


def _document(name: str, entry: bytes) -> Document:
    """From what the script keeps: version, time, line break, content."""
    stamp, _, content = entry.partition(b"\n")
    version, written_s = stamp.split()
    return Document(name, int(version), content, float(written_s))


def _pool(address: RedisAddress, config: StateConfig, environ: Mapping[str, str]) -> BlockingConnectionPool:
    """Without redis-py's own retries and timeouts: the link bounds every call, and its recovery is what retries."""
    options: dict[str, Any] = {
        "db": address.db,
        "username": address.username,
        "password": environ.get(config.password_env) if config.password_env else None,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "max_connections": MAX_CONNECTIONS,
        "timeout": config.timeout_s,
    }
    if address.path is not None:
        return BlockingConnectionPool(connection_class=UnixDomainSocketConnection, path=address.path, **options)
    options |= {"host": address.host, "port": address.port, "socket_keepalive": True}
    if address.tls:
        tls = client_context(config.tls_ca_file, "state.tls_ca_file")
        return BlockingConnectionPool(connection_class=TlsConnection, tls=tls, **options)
    return BlockingConnectionPool(connection_class=Connection, **options)
