"""API keys: which tenant a request belongs to. Keys are kept as hashes and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping

from router.config import AuthConfig, ConfigError
from router.errors import Unauthorized

DEFAULT_TENANT = "default"


class Keyring:
    """Maps a bearer key to its tenant. Without keys every request belongs to the tenant `default`."""

    def __init__(self, keys: Mapping[str, bytes] | None) -> None:
        self._digests = keys

    @classmethod
    def from_config(cls, auth: AuthConfig | None, environ: Mapping[str, str] = os.environ) -> Keyring:
        """Read `tenant=key` pairs from the environment.

        Raises:
            ConfigError: an entry is not such a pair; it is named by its place, never by its text.
        """
        if auth is None:
            return cls(None)
        digests: dict[str, bytes] = {}
        entries = [entry.strip() for entry in environ.get(auth.keys_env, "").split(",") if entry.strip()]
        for number, entry in enumerate(entries, start=1):
            tenant, separator, key = entry.partition("=")
            if not separator or not tenant or len(key) < 8 or tenant in digests:
                raise ConfigError(
                    auth.keys_env,
                    [f"entry {number} must be tenant=key with a tenant named once and a key of at least 8 characters"],
                )
            digests[tenant] = _digest(key.encode())
        if not digests:
            raise ConfigError(auth.keys_env, ["holds no tenant=key pair: nobody could use the gateway"])
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


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
