"""API keys that the gateway makes: random, shown once, kept as hashes.

A key is `locum_` and 43 characters of 62: 256 random bits. Its plain SHA-256 is kept, without salt and without
stretching. Both protect secrets that people can guess: stretching makes each guess expensive, salt makes it good for
one entry only. Nobody guesses 256 random bits, however fast, and no two keys are equal: a file that leaks gives nothing
away, and a request pays for one hash instead of a tenth of a second.

The id of a key, by which people name it and the gateway finds it, is the beginning of its hash and no secret.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from datetime import datetime
from typing import Annotated, Literal, get_args

import msgspec

Scope = Literal["inference", "feedback", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_SCOPES: tuple[Scope, ...] = ("inference", "feedback")
"""What an application needs."""
PREFIX = "locum_"
ALPHABET = string.ascii_letters + string.digits
SECRET_CHARS = 43
ID_DIGITS = 12
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}\Z"

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known about a key. The key itself is not."""

    name: Name
    """For people; a key and the one that replaced it have the same."""
    tenant: Name
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    last4: Annotated[str, msgspec.Meta(max_length=4)]
    """The key's last characters, by which its owner recognises it."""
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1)] = DEFAULT_SCOPES
    created: Time
    expires: Time | None = None
    revoked: Time | None = None

    @property
    def id(self) -> str:
        return key_id(bytes.fromhex(self.sha256))

    def state(self, now: datetime) -> Literal["valid", "expired", "revoked"]:
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"


def digest_of(key: bytes) -> bytes:
    """What is stored of a key and compared."""
    return hashlib.sha256(key).digest()


def key_id(digest: bytes) -> str:
    return digest.hex()[:ID_DIGITS]


def new_key(
    *, name: str, tenant: str, scopes: tuple[Scope, ...], created: datetime, expires: datetime | None
) -> tuple[ApiKey, str]:
    """A key and its secret text, which is nowhere else."""
    text = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(SECRET_CHARS))
    key = ApiKey(
        name=name,
        tenant=tenant,
        sha256=digest_of(text.encode()).hex(),
        last4=text[-4:],
        scopes=scopes,
        created=created,
        expires=expires,
    )
    return key, text
