"""Encryption at rest: AES-256-GCM over single records of segments, and over whole files that are read at any place.

Nobody can tell from a key alone that a nonce was never used before, so no key is ever used directly: every writer (one
per process and open log) and every file draws 16 random bytes, the salt, and derives its own key from them by
HKDF-SHA256. Under such a key the nonce is a counter that this writer, or this file, never repeats: it is taken before
the encryption, also when the write that follows fails and is cut off again. Two writers share a key only when their
salts are equal, which for 2^48 writers has a probability below 2^-33. A fork would copy the counter: writers are made
by the process that writes. 2^64 records and 2^48 chunks are out of reach, and a key encrypts far less than the 2^32
blocks for each message and the 2^64 in all that GCM allows.

A sealed record is one line, so that a segment keeps its form (policies/traffic/segments.py): `~` and key id (4 bytes) +
salt (16) + counter (8) + ciphertext and tag, with line feeds escaped. Each can be opened alone, damage stays where it
is.

A sealed file is a header (magic, key id, salt, chunk size: 32 bytes) and chunks of 64 KiB, each with its tag; the nonce
holds the chunk's number and whether it is the last one, so that chunks can neither be swapped nor the end be cut off.
The header is authenticated with each of them.

What it does not do: whoever can write to the folder can leave out, repeat or swap whole records of a segment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import secrets
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
SALT_BYTES = 16
TAG_BYTES = 16
KEY_ID_BYTES = 4
MARK = b"~"
"""First byte of a sealed record; JSON begins with `{`."""
MAGIC = b"LOCUMSF1"
CHUNK_BYTES = 64 * 1024
NO_KEY_NAMED = "the log is encrypted, and its storage.json names no variable with the key (log.encryption_key_env)"
_HEADER = struct.Struct(f">8s{KEY_ID_BYTES}s{SALT_BYTES}sI")
_RECORD_PREFIX_BYTES = KEY_ID_BYTES + SALT_BYTES + 8


class SealError(Exception):
    """A key is missing, wrong or unusable. The message names the variable that should hold it."""


class Tampered(ValueError):
    """The bytes are not what was encrypted under this key: damage, and not a matter of keys."""


class Keyring:
    """The keys that a log is read with; the first one writes.

    Derived keys are cached: a reader meets the same few salts again and again.
    """

    def __init__(self, keys: list[bytes], source: str) -> None:
        """
        Args:
            keys: 32 bytes each.
            source: what the keys come from, for messages.
        Raises:
            SealError: cryptography is not installed.
        """
        _aesgcm()
        self._keys = {_key_id(key): key for key in keys}
        self._first = keys[0]
        self._source = source
        self._derived = lru_cache(maxsize=4096)(self._derive)

    @classmethod
    def from_environment(cls, name: str, environ: Mapping[str, str] = os.environ) -> Keyring:
        """Keys from a variable: base64 of 32 bytes, several separated by commas. Raises: SealError."""
        text = environ.get(name, "")
        if not text.strip():
            raise SealError(f"the log is encrypted: set {name} to its key (base64 of 32 bytes; several with commas)")
        return cls([_decoded(part.strip(), name) for part in text.split(",")], name)

    def cipher(self, key_id: bytes, salt: bytes) -> AESGCM:
        """Raises: SealError: none of the keys has this id."""
        return self._derived(key_id, salt)

    def first_id(self) -> bytes:
        return _key_id(self._first)

    def require(self, key_id: bytes) -> bytes:
        """Raises: SealError: none of the keys has this id."""
        key = self._keys.get(key_id)
        if key is None:
            raise SealError(
                f"{self._source} does not hold the key {key_id.hex()} that a part of the log is encrypted with; add it "
                "behind the present key, separated by a comma"
            )
        return key

    def _derive(self, key_id: bytes, salt: bytes) -> AESGCM:
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

        key = self.require(key_id)
        hkdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=salt, info=b"locum traffic log v1")
        return _aesgcm()(hkdf.derive(key))

    def opened(self, sealed: bytes) -> bytes:
        """The record in a sealed line. Raises: SealError, Tampered."""
        data = unescaped(sealed[1:])
        if len(data) < _RECORD_PREFIX_BYTES + TAG_BYTES:
            raise Tampered("too short")
        prefix = data[:_RECORD_PREFIX_BYTES]
        cipher = self.cipher(prefix[:KEY_ID_BYTES], prefix[KEY_ID_BYTES:-8])
        return _decrypt(cipher, bytes(4) + prefix[-8:], data[_RECORD_PREFIX_BYTES:], prefix)


class RecordSealer:
    """Seals the records of one writer. Not for several threads at once."""

    def __init__(self, keyring: Keyring) -> None:
        key_id, salt = keyring.first_id(), secrets.token_bytes(SALT_BYTES)
        self._cipher = keyring.cipher(key_id, salt)
        self._prefix = key_id + salt
        self._count = 0

    def __call__(self, payload: bytes) -> bytes:
        """One line, without its line end."""
        counter = self._count.to_bytes(8)
        self._count += 1
        prefix = self._prefix + counter
        sealed = self._cipher.encrypt(bytes(4) + counter, payload, prefix)
        return MARK + escaped(prefix + sealed)


def escaped(data: bytes) -> bytes:
    """The data as one line: 1 % longer, where base64 would be a third longer and take four times as long."""
    return data.replace(b"}", b"}]").replace(b"\n", b"}J")


def unescaped(line: bytes) -> bytes:
    """`}J` can only be a line feed: every other `}` is followed by `]`. Joining parts beats replacing pairs."""
    return b"}".join(b"\n".join(line.split(b"}J")).split(b"}]"))


class SealedWriter(io.RawIOBase):
    """A file to write to from its start to its end; what it is closed without was never complete."""

    def __init__(self, target: BinaryIO, keyring: Keyring) -> None:
        super().__init__()
        self._target = target
        salt = secrets.token_bytes(SALT_BYTES)
        self._header = _HEADER.pack(MAGIC, keyring.first_id(), salt, CHUNK_BYTES)
        self._cipher = keyring.cipher(keyring.first_id(), salt)
        self._waiting = bytearray()
        self._chunk = 0
        self._written = 0
        target.write(self._header)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: bytes) -> int:  # type: ignore[override]  # any buffer in io, bytes here
        self._waiting += data
        self._written += len(data)
        while len(self._waiting) > CHUNK_BYTES:  # the last chunk is known by `finish` only
            self._put(bytes(self._waiting[:CHUNK_BYTES]), last=False)
            del self._waiting[:CHUNK_BYTES]
        return len(data)

    def finish(self) -> None:
        """Write what is left, marked as the end."""
        self._put(bytes(self._waiting), last=True)
        self._waiting.clear()

    def _put(self, chunk: bytes, *, last: bool) -> None:
        self._target.write(self._cipher.encrypt(_chunk_nonce(self._chunk, last), chunk, self._header))
        self._chunk += 1


ReadAt = Callable[[int, int], bytes]
"""(start, end) -> the bytes between them."""


class SealedReader:
    """The plain bytes of a sealed file, at any place. Safe for several threads when `read_at` is."""

    def __init__(self, read_at: ReadAt, stored_bytes: int, keyring: Keyring | None, name: str) -> None:
        """Raises: SealError: no key, or not this one. Tampered: not a sealed file."""
        header = read_at(0, _HEADER.size)
        if len(header) < _HEADER.size or header[: len(MAGIC)] != MAGIC:
            raise Tampered("not a sealed file")
        if keyring is None:
            raise SealError(f"{name}: {NO_KEY_NAMED}")
        _, key_id, salt, chunk_bytes = _HEADER.unpack(header)
        body = stored_bytes - _HEADER.size
        self._chunks = -(-body // (CHUNK_BYTES + TAG_BYTES))
        if chunk_bytes != CHUNK_BYTES or not self._chunks or body < self._chunks * TAG_BYTES:
            raise Tampered("cut off, or of another format")
        self.size = body - self._chunks * TAG_BYTES
        self._header = header
        self._cipher = keyring.cipher(key_id, salt)
        self._read_at = read_at
        # Nothing may be cut off, so the end is looked at first; that is where whoever reads Parquet begins as well.
        self._last = self._opened(self._chunks - 1, self._chunks)

    def read_at(self, start: int, end: int) -> bytes:
        """Raises: Tampered."""
        end = min(end, self.size)
        if start >= end:
            return b""
        first, behind = start // CHUNK_BYTES, (end - 1) // CHUNK_BYTES + 1
        ends = behind == self._chunks
        plain = self._opened(first, behind - ends) + (self._last if ends else b"")
        return plain[start - first * CHUNK_BYTES : end - first * CHUNK_BYTES]

    def _opened(self, first: int, behind: int) -> bytes:
        """The plain bytes of some chunks in a row."""
        stored = CHUNK_BYTES + TAG_BYTES
        sealed = self._read_at(_HEADER.size + first * stored, _HEADER.size + behind * stored) if first < behind else b""
        return b"".join(
            _decrypt(
                self._cipher,
                _chunk_nonce(number, number == self._chunks - 1),
                sealed[(number - first) * stored : (number - first + 1) * stored],
                self._header,
            )
            for number in range(first, behind)
        )


def _chunk_nonce(number: int, last: bool) -> bytes:
    return bytes(3) + bytes([last]) + number.to_bytes(8)


def _decrypt(cipher: AESGCM, nonce: bytes, data: bytes, associated: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra

    try:
        return cipher.decrypt(nonce, data, associated)
    except (InvalidTag, ValueError) as exc:
        raise Tampered("the authentication tag does not fit") from exc


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"locum key id" + key).digest()[:KEY_ID_BYTES]


def _decoded(text: str, name: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise SealError(f"{name} is not base64; make a key with `openssl rand -base64 32`") from exc
    if len(key) != KEY_BYTES:
        raise SealError(
            f"{name} holds a key of {len(key)} bytes instead of 32; make one with `openssl rand -base64 32`"
        )
    return key


def _aesgcm() -> type[AESGCM]:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise SealError("an encrypted log needs cryptography: pip install 'locum[encryption]'") from exc
    return AESGCM
