"""What was erased from a log and must not come back: by late feedback, another machine's segment, a restored backup.

A tombstone is a small file that nobody changes: keyed hashes of the ids of the records that were erased, and of what
they were chosen by. Records that are met later and fit it are not handed out, and the next compaction drops them:

- records and annotations with one of the ids, whatever their time,
- records that it chooses (`subject`, `tenant`, `session`) up to the time of the erasure. A person who comes back later
  is a new matter.

The key is the one that subjects are hashed with (`log.subject_key_env`). Without it the key is a salt that stands in
the tombstone: then whoever has the file can try names of tenants and sessions out; ids are random and cannot be tried.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from policies.record import AnyRecord, DecisionRecord
from policies.traffic.stores import Store

SCHEMA_VERSION = 1
HASH_BYTES = 16
MIN_KEY_CHARS = 16
SUFFIX = ".json"
Criterion = tuple[tuple[str, str], ...]
"""What records are chosen by: (field, value), sorted; all of them must hold."""


class LedgerError(Exception):
    """The tombstones cannot be used. The message says why."""


class SubjectKey(NamedTuple):
    """What subjects are hashed with."""

    secret: bytes
    id: str
    """Tells keys apart without giving them away; empty: there is no key."""

    def hash(self, subject: str) -> str:
        """The `subject` field of a record. Without a key a plain SHA-256, which a list of known ids undoes."""
        data = subject.encode("utf-8", "replace")
        if not self.secret:
            return hashlib.sha256(b"locum subject" + data).hexdigest()[: 2 * HASH_BYTES]
        return hmac.digest(self.secret, data, "sha256").hex()[: 2 * HASH_BYTES]


NO_KEY = SubjectKey(b"", "")


def subject_keys(name: str | None, environ: Mapping[str, str] = os.environ) -> list[SubjectKey]:
    """The keys of a variable, several separated by commas; the first one is used for what is new.

    Raises: LedgerError: the variable is unset, or a key is short.
    """
    if name is None:
        return [NO_KEY]
    secrets_ = [part.strip() for part in environ.get(name, "").split(",") if part.strip()]
    if not secrets_:
        raise LedgerError(f"log.subject_key_env: the environment variable {name} is not set")
    if min(map(len, secrets_)) < MIN_KEY_CHARS:
        raise LedgerError(f"log.subject_key_env: a key in {name} has fewer than {MIN_KEY_CHARS} characters")
    return [SubjectKey(text.encode(), _hash(text.encode(), "key", "")[:8]) for text in secrets_]


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """One erasure."""

    schema: int = SCHEMA_VERSION
    created_s: float
    key_id: str
    """Of the key; empty: `salt` is the key."""
    salt: str
    fields: tuple[str, ...]
    """What the records were chosen by."""
    chosen: str
    """Hash of the values of `fields`; empty when they were chosen by their ids."""
    ids: frozenset[str]
    """Hashes of decision ids."""


class Ledger:
    """All tombstones of a log."""

    def __init__(self, tombstones: Mapping[str, Tombstone], keys: Iterable[SubjectKey]) -> None:
        """Raises: LedgerError: the key of one is missing."""
        self.names = frozenset(tombstones)
        known = {key.id: key.secret for key in keys if key.secret}
        self._by_key: dict[bytes, _UnderKey] = {}
        for name, each in tombstones.items():
            if each.key_id and each.key_id not in known:
                raise LedgerError(
                    f"the tombstone {name} was made with another key of log.subject_key_env ({each.key_id}); add that "
                    "key behind the present one, separated by a comma"
                )
            secret = known[each.key_id] if each.key_id else bytes.fromhex(each.salt)
            self._by_key.setdefault(secret, _UnderKey()).add(each)
        self.salt = next((each.salt for each in tombstones.values() if each.salt), "")

    def __bool__(self) -> bool:
        return bool(self.names)

    def covers(self, record: AnyRecord) -> bool:
        """Whether a record was erased, or belongs to one that was."""
        return any(under.covers(secret, record) for secret, under in self._by_key.items())


class _UnderKey:
    """The tombstones that share a key: an id is hashed once for all of them."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._chosen: dict[tuple[str, ...], dict[str, float]] = {}
        """fields -> hash of their values -> up to which time."""

    def add(self, tombstone: Tombstone) -> None:
        self._ids |= tombstone.ids
        if tombstone.chosen:
            until = self._chosen.setdefault(tombstone.fields, {})
            until[tombstone.chosen] = max(until.get(tombstone.chosen, 0.0), tombstone.created_s)

    def covers(self, secret: bytes, record: AnyRecord) -> bool:
        if _hash(secret, "id", record.decision_id) in self._ids:
            return True
        for fields, until in self._chosen.items():
            values = values_of(record, fields)
            if values is not None and record.created_s <= until.get(_chosen_hash(secret, values), -1.0):
                return True
        return False


def values_of(record: AnyRecord, fields: tuple[str, ...]) -> Criterion | None:
    """A record's values of some fields; None when one is missing."""
    values = tuple((name, getattr(record, name, None)) for name in fields)
    if not isinstance(record, DecisionRecord) and fields != ("tenant",):
        return None  # an annotation is found by its id
    return None if any(value is None for _, value in values) else values  # type: ignore[return-value]


def load_ledger(stores: Iterable[Store], keys: Iterable[SubjectKey]) -> Ledger:
    """Raises: LedgerError: damaged, of a newer version, or its key is missing. OSError."""
    found: dict[str, Tombstone] = {}
    for store in stores:
        for name in store.names():
            if name.endswith(SUFFIX):
                found[name] = _decoded(store.get(name), f"{store.label}/{name}")
    return Ledger(found, keys)


def make_tombstone(
    ledger: Ledger, key: SubjectKey, chosen_by: Criterion, ids: Iterable[str], now_s: float
) -> tuple[str, Tombstone]:
    """A tombstone and its name. `chosen_by` names no ids: those are in `ids`."""
    salt = "" if key.secret else ledger.salt or secrets.token_hex(32)
    secret = key.secret or bytes.fromhex(salt)
    tombstone = Tombstone(
        created_s=now_s,
        key_id=key.id,
        salt=salt,
        fields=tuple(name for name, _ in chosen_by),
        chosen=_chosen_hash(secret, chosen_by) if chosen_by else "",
        ids=frozenset(_hash(secret, "id", decision_id) for decision_id in ids),
    )
    return f"{int(now_s):012d}-{secrets.token_hex(6)}{SUFFIX}", tombstone


def encode_tombstone(tombstone: Tombstone) -> bytes:
    return msgspec.json.encode(tombstone, order="deterministic")


def _decoded(data: bytes, name: str) -> Tombstone:
    try:
        tombstone = msgspec.json.decode(data, type=Tombstone)
        bytes.fromhex(tombstone.salt)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as exc:
        raise LedgerError(f"{name} is damaged: {exc}") from exc
    if tombstone.schema > SCHEMA_VERSION:
        raise LedgerError(f"{name} was written by a newer version of Locum (schema {tombstone.schema})")
    return tombstone


def _chosen_hash(secret: bytes, values: Criterion) -> str:
    return _hash(secret, "chosen", msgspec.json.encode(values).decode())


def _hash(secret: bytes, kind: str, value: str) -> str:
    return hmac.digest(secret, f"{kind}:{value}".encode("utf-8", "replace"), "sha256").hex()[: 2 * HASH_BYTES]
