"""Where shared state lives, what happens without it, and the response cache that is kept in it."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field, StrictBool, StrictInt, field_validator, model_validator

from router.addresses import HOST, serves_metadata
from router.config.base import EnvName, Seconds, Table, WrongKey

OnFailure = Literal["open", "closed"]
REDIS_PORT = 6379


class RedisAddress(NamedTuple):
    """What a `redis://`, `rediss://` or `unix://` URL says."""

    host: str | None
    port: int
    path: str | None
    """Of a UNIX socket, instead of host and port."""
    db: int
    username: str | None
    tls: bool


def redis_address(url: str) -> RedisAddress:
    """Takes a URL apart. Raises: ValueError, which never repeats the URL: a password may be part of it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError("has a bad port (1 to 65535) or bad brackets") from exc
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(
            "must be memory://, redis://HOST:PORT/DB, rediss://HOST:PORT/DB (TLS) or unix:///PATH/TO/SOCKET?db=DB"
        )
    if parts.password is not None or "password" in parts.query:
        raise ValueError("must not contain the password; name the environment variable that holds it in password_env")
    if parts.fragment:
        raise ValueError("must not have a fragment")
    username = unquote(parts.username) if parts.username else None
    if parts.scheme == "unix":
        return _socket_address(parts.netloc, parts.path, parts.query)
    if parts.query:
        raise ValueError("must not have a query; the database is the path: redis://HOST:PORT/DB")
    if not parts.hostname or not HOST.fullmatch(parts.hostname) or serves_metadata(parts.hostname):
        raise ValueError("must name a host, for example redis://127.0.0.1:6379/0")
    if port == 0:
        raise ValueError("must have a port from 1 to 65535, or none")
    db = _db(parts.path.strip("/") or "0")
    return RedisAddress(parts.hostname, port or REDIS_PORT, None, db, username, parts.scheme == "rediss")


def _socket_address(netloc: str, path: str, query: str) -> RedisAddress:
    username, _, host = netloc.rpartition("@")
    if host or path in ("", "/"):
        raise ValueError("must name the socket by its whole path: unix:///PATH/TO/SOCKET")
    options = parse_qs(query, keep_blank_values=True)
    if set(options) - {"db"}:
        raise ValueError("may have no query but ?db=DB")
    db = _db(options.get("db", ["0"])[-1])
    return RedisAddress(None, 0, unquote(path), db, unquote(username) or None, False)


def _db(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII):
        raise ValueError("has a database that is not a number: redis://HOST:PORT/DB, unix:///PATH?db=DB")
    return int(text)


class OnFailureConfig(Table):
    """What each feature does while the store is out of reach: `open` lets every process enforce its own share from
    memory until the store is back, `closed` refuses with 503."""

    limits: OnFailure = Field("open", description="Requests and tokens per minute, while the store is out of reach.")
    budgets: OnFailure = Field("open", description="Budgets, while the store is out of reach.")
    concurrency: OnFailure = Field("open", description="Concurrency limits, while the store is out of reach.")


class StateConfig(Table):
    """Where shared state lives."""

    url: str = Field(
        "memory://",
        description="`memory://` for one machine; `redis://HOST:PORT/DB`, `rediss://HOST:PORT/DB` (TLS) or "
        "`unix:///PATH?db=DB` for a Redis that several replicas share.",
    )
    password_env: EnvName | None = Field(None, description="Environment variable that holds the password of Redis.")
    timeout_s: Seconds = Field(
        0.05, description="Longest time that a request waits for Redis; then `state.on_failure` says how it goes on."
    )
    tls_ca_file: str | None = Field(None, description="Certificates that `rediss://` trusts; default: the system's.")
    key_prefix: str = Field("locum", description="Of every key in Redis; gateways that share it share their state.")
    on_failure: OnFailureConfig = OnFailureConfig()

    @field_validator("url")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "memory://":
            redis_address(value)
        return value

    @field_validator("key_prefix")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value, re.ASCII):
            raise ValueError("must be 1 to 64 letters, digits, '_', '.' or '-'")
        return value

    @model_validator(mode="after")
    def _fitting(self) -> StateConfig:
        if self.password_env is not None and self.url == "memory://":
            raise WrongKey("password_env", "memory:// has no password; remove it or give the URL of a Redis")
        if self.tls_ca_file is not None and not self.url.startswith("rediss://"):
            raise WrongKey("tls_ca_file", "needs a rediss:// URL")
        return self


class CacheConfig(Table):
    """The exact-match response cache."""

    enabled: StrictBool = Field(
        False, description="Answer a request that equals an earlier one of the same tenant from the shared state."
    )
    ttl_s: Seconds = Field(3600.0, description="How long an answer is kept.")
    max_bytes: StrictInt = Field(
        64 * 2**20, ge=4096, description="All answers together, with `memory://`; Redis has its own `maxmemory`."
    )
