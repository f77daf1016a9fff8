"""Who may administrate: keys of their own, compared in constant time, and a limit on wrong ones."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from router.admin.audit import Actor
from router.config import AuthConfig, ConfigError
from router.errors import Unauthorized

MIN_KEY_CHARACTERS = 16
SHOWN_CHARACTERS = 4
WRONG_KEYS_PER_MINUTE = 10
MAX_ADDRESSES = 4096
DEFAULT_NAME = "admin"
_NAMED = re.compile(r"(?P<name>[a-z][a-z0-9_.-]{0,31})=(?P<key>[!-~]{16,})")


class AdminKeys:
    """Keys by name. From a variable with one key, or with comma-separated `name=key` pairs to rotate them and to tell
    people apart in the audit log."""

    def __init__(self, keys: Mapping[bytes, Actor]) -> None:
        """
        Args:
            keys: sha256 of a key -> whose it is.
        """
        self._keys = keys

    @classmethod
    def from_config(cls, auth: AuthConfig | None, environ: Mapping[str, str] = os.environ) -> AdminKeys | None:
        """None: no admin key is configured, so there is no admin API.

        Raises:
            ConfigError: entries are wrong; they are named by their places, never by their text.
        """
        if auth is None or auth.admin_key_env is None or not environ.get(auth.admin_key_env, "").strip():
            return None
        keys: dict[bytes, Actor] = {}
        problems = []
        for number, entry in enumerate(environ[auth.admin_key_env].split(","), start=1):
            named = _NAMED.fullmatch(entry.strip())
            name, key = (named["name"], named["key"]) if named else (DEFAULT_NAME, entry.strip())
            if len(key) < MIN_KEY_CHARACTERS or not all("!" <= character <= "~" for character in key):
                problems.append(
                    f"entry {number} is not a key of at least {MIN_KEY_CHARACTERS} printable ASCII characters without "
                    "blanks, or name=key"
                )
                continue
            keys[_digest(key.encode())] = Actor(name, key[-SHOWN_CHARACTERS:])
        if problems:
            raise ConfigError(auth.admin_key_env, problems)
        return cls(keys)

    def actor_of(self, authorization: str | None) -> Actor:
        """Every key is compared, so that time says nothing. Raises: Unauthorized."""
        scheme, key = [*(authorization or "").split(None, 1), "", ""][:2]
        offered = _digest(key.strip().encode("utf-8", "surrogateescape"))
        found = None
        for digest, actor in self._keys.items():
            if hmac.compare_digest(digest, offered):
                found = actor
        if found is None or scheme.lower() != "bearer":
            raise Unauthorized("Give an admin key in the header 'Authorization: Bearer KEY'.")
        return found


class WrongKeys:
    """Slows guessing: an address that has sent too many wrong keys is not listened to for a while, right key or not."""

    def __init__(
        self, *, per_minute: float = WRONG_KEYS_PER_MINUTE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._debts: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Address -> wrong keys that have not been forgiven yet, and as of when. Bounded: the oldest is forgotten."""

    def wait_s(self, address: str) -> float:
        """How long nothing from this address is looked at; 0 when it is."""
        excess = self._debt(address) + 1 - WRONG_KEYS_PER_MINUTE
        return max(0.0, excess * 60 / WRONG_KEYS_PER_MINUTE)

    def note(self, address: str) -> None:
        """A wrong key came from there."""
        self._debts[address] = self._debt(address) + 1, self._clock()
        self._debts.move_to_end(address)
        while len(self._debts) > MAX_ADDRESSES:
            self._debts.popitem(last=False)

    def _debt(self, address: str) -> float:
        debt, at_s = self._debts.get(address, (0.0, 0.0))
        return max(0.0, debt - (self._clock() - at_s) * WRONG_KEYS_PER_MINUTE / 60)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
