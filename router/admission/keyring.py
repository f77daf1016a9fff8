"""Which key a request brings, and what that key may do: the pairs of the environment and the keys of the file."""

from __future__ import annotations

import hmac
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from router.admission.key_file import KeyFile, KeyFileError, Stamp
from router.admission.keys import DEFAULT_SCOPES, ApiKey, Scope, digest_of, key_id
from router.config import AuthConfig, ConfigError
from router.errors import Forbidden, Unauthorized
from router.http_client import Headers

logger = logging.getLogger(__name__)

MIN_KEY_CHARACTERS = 8
NO_DIGEST = bytes(32)


class KnownKey(NamedTuple):
    """A key that requests may bring."""

    digest: bytes
    tenant: str
    name: str
    scopes: frozenset[Scope]
    expires_s: float = math.inf
    """Unix time."""
    revoked: bool = False
    last4: str = ""

    @property
    def id(self) -> str:
        return key_id(self.digest)


class Keyring:
    """Finds the key of a request.

    A key is found by its id, which is public, and then its whole hash is compared in constant time; an unknown id costs
    the same comparison. So time says nothing about keys, and their number costs no request anything.
    """

    def __init__(
        self, pairs: Iterable[KnownKey], file: KeyFile | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Raises: ConfigError: the file cannot be read."""
        self._pairs = tuple(pairs)
        self._file = file
        self._clock = clock
        self._seen: Stamp | None = None
        self._known: dict[str, KnownKey] = {}
        try:
            self._load()
        except (KeyFileError, OSError) as exc:
            raise ConfigError("auth.keys_file", [str(exc)]) from exc

    @classmethod
    def from_config(
        cls, auth: AuthConfig, environ: Mapping[str, str], *, clock: Callable[[], float] = time.time
    ) -> Keyring:
        """Raises: ConfigError: entries are wrong; they are named by their places, never by their text."""
        pairs: list[KnownKey] = []
        if auth.keys_env is not None:
            pairs += _pairs(auth.keys_env, environ.get(auth.keys_env, ""))
        file = KeyFile(Path(auth.keys_file)) if auth.keys_file is not None else None
        ring = cls(pairs, file, clock=clock)
        if file is not None and file.stamp() is None and auth.keys_env is None:
            logger.warning("auth.keys_file: %s does not exist yet; make a key with `locum keys create`", file.path)
        return ring

    def find(self, headers: Headers, scope: Scope) -> KnownKey:
        """The key that a request brings and that may do this.

        Raises:
            Unauthorized: no key, or an unknown one.
            Forbidden: an expired or revoked one, or one without this scope.
        """
        offered = digest_of(offered_key(headers))
        known = self._known.get(key_id(offered))
        if not hmac.compare_digest(known.digest if known else NO_DIGEST, offered) or known is None:
            raise Unauthorized("Give a valid API key in the header 'Authorization: Bearer KEY' (or 'x-api-key: KEY').")
        if known.revoked:
            raise Forbidden("This API key has been revoked.", code="key_revoked")
        if known.expires_s <= self._clock():
            raise Forbidden("This API key has expired.", code="key_expired")
        if scope not in known.scopes:
            raise Forbidden(f"This API key may not be used here: it lacks {scope!r}.", code="insufficient_permissions")
        return known

    @property
    def changed(self) -> bool:
        """Whether the file is another one than the one that was read. Asks the disk."""
        try:
            return self._file is not None and self._file.stamp() != self._seen
        except OSError:
            return True

    def reload(self) -> bool:
        """Read the file again; a bad one never replaces good keys. Returns: whether it could be read."""
        try:
            self._load()
        except (KeyFileError, OSError) as exc:
            logger.error("the keys stay as they were: %s", exc)
            return False
        logger.info("auth.keys_file: %d keys", len(self._known) - len(self._pairs))
        return True

    def _load(self) -> None:
        stamp = self._file.stamp() if self._file is not None else None
        self._seen, first = stamp, not self._known
        if self._file is not None and (stamp is not None or not first):
            self._known = _index([*self._pairs, *map(_of_file, self._file.read())])
        elif first:
            self._known = _index(self._pairs)


def offered_key(headers: Headers) -> bytes:
    """The key in the headers: OpenAI's clients send a bearer token, Anthropic's `x-api-key`, Azure's `api-key`."""
    other = b""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.strip().replace(b"\t", b" ").partition(b" ")
            if scheme.lower() == b"bearer":
                return key.strip()
        elif name in (b"x-api-key", b"api-key"):
            other = value.strip()
    return other


def _index(keys: Iterable[KnownKey]) -> dict[str, KnownKey]:
    known: dict[str, KnownKey] = {}
    for key in keys:
        known.setdefault(key.id, key)
    return known


def _of_file(key: ApiKey) -> KnownKey:
    return KnownKey(
        digest=bytes.fromhex(key.sha256),
        tenant=key.tenant,
        name=key.name,
        scopes=frozenset(key.scopes),
        expires_s=key.expires.timestamp() if key.expires is not None else math.inf,
        revoked=key.revoked is not None,
        last4=key.last4,
    )


def _pairs(variable: str, text: str) -> list[KnownKey]:
    """`tenant=key` pairs of an environment variable. Raises: ConfigError."""
    found: dict[str, KnownKey] = {}
    digests: set[bytes] = set()
    problems = []
    for number, entry in enumerate(text.split(","), start=1):
        if not entry.strip():
            continue
        tenant, separator, key = (part.strip() for part in entry.partition("="))
        problem = _problem(tenant, separator, key)
        if problem is None and tenant in found:
            problem = "names a tenant of an earlier entry"
        if problem is None and digest_of(key.encode()) in digests:
            problem = "has the key of an earlier entry: one key is one tenant"
        if problem is None:
            found[tenant] = KnownKey(digest_of(key.encode()), tenant, variable, frozenset(DEFAULT_SCOPES))
            digests.add(found[tenant].digest)
        else:
            problems.append(f"entry {number} {problem}")
    if not found and not problems:
        problems.append("holds no tenant=key pair: nobody could use the gateway")
    if problems:
        raise ConfigError(variable, problems)
    return list(found.values())


def _problem(tenant: str, separator: str, key: str) -> str | None:
    """What is wrong with an entry, without a word of it."""
    if not separator or not tenant or not tenant.isprintable():
        return "is not tenant=key with a printable tenant"
    if len(key) < MIN_KEY_CHARACTERS:
        return f"has a key of fewer than {MIN_KEY_CHARACTERS} characters"
    if not all("!" <= character <= "~" for character in key):
        return "has a key that no header can carry: use printable ASCII without blanks"
    return None
