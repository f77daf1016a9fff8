"""API keys: which tenant a request belongs to. Keys are kept as hashes and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping

from router.config import AuthConfig, ConfigError
from router.errors import Unauthorized

DEFAULT_TENANT = "default"
MIN_KEY_CHARACTERS = 8


class Keyring:
    """Maps a bearer key to its tenant. Without keys every request belongs to the tenant `default`."""

    def __init__(self, keys: Mapping[str, bytes] | None) -> None:
        self._digests = keys

    @classmethod
    def from_config(cls, auth: AuthConfig | None, environ: Mapping[str, str] = os.environ) -> Keyring:
        """Read `tenant=key` pairs from the environment.

        Raises:
            ConfigError: entries are wrong; they are named by their places, never by their text.
        """
        if auth is None:
            return cls(None)
        digests: dict[str, bytes] = {}
        problems = []
        for number, entry in enumerate(environ.get(auth.keys_env or "", "").split(","), start=1):
            if not entry.strip():
                continue
            tenant, separator, key = (part.strip() for part in entry.partition("="))
            problem = _problem(tenant, separator, key, digests)
            if problem is None:
                digests[tenant] = _digest(key.encode())
            else:
                problems.append(f"entry {number} {problem}")
        if not digests and not problems:
            problems.append("holds no tenant=key pair: nobody could use the gateway")
        if problems:
            raise ConfigError(auth.keys_env or "auth", problems)
        return cls(digests)

    def tenant_of(self, authorization: bytes | None) -> str:
        """The tenant of an Authorization header. Every key is compared, so that time says nothing.

        Raises:
            Unauthorized: no key, or an unknown one.
        """
        if self._digests is None:
            return DEFAULT_TENANT
        scheme, key = [*(authorization or b"").split(None, 1), b"", b""][:2]
        offered = _digest(key.strip())
        found = None
        for tenant, digest in self._digests.items():
            if hmac.compare_digest(digest, offered):
                found = tenant
        if found is None or scheme.lower() != b"bearer":
            raise Unauthorized("Give a valid API key in the header 'Authorization: Bearer KEY'.")
        return found


def _problem(tenant: str, separator: str, key: str, known: Mapping[str, bytes]) -> str | None:
    """What is wrong with an entry, without a word of it."""
    if not separator or not tenant or not tenant.isprintable():
        return "is not tenant=key with a printable tenant"
    if len(key) < MIN_KEY_CHARACTERS:
        return f"has a key of fewer than {MIN_KEY_CHARACTERS} characters"
    if not all("!" <= character <= "~" for character in key):
        return "has a key that no header can carry: use printable ASCII without blanks"
    if tenant in known:
        return "names a tenant of an earlier entry"
    if _digest(key.encode()) in known.values():
        return "has the key of an earlier entry: one key is one tenant"
    return None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
