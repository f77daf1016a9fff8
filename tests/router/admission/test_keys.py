"""API keys: made, kept as hashes, found in requests."""

from __future__ import annotations

import json
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from router.admission.key_file import KeyFile, KeyFileError
from router.admission.keyring import Keyring
from router.admission.keys import ALPHABET, PREFIX, SCOPES, ApiKey, Scope, new_key
from router.config import AuthConfig, ConfigError
from router.errors import Forbidden, Unauthorized
from router.http_client import Headers

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def make(tenant: str = "acme", *, scopes: tuple[Scope, ...] = SCOPES, **times: datetime) -> tuple[ApiKey, str]:
    key, text = new_key(name=tenant, tenant=tenant, scopes=scopes, created=NOON, expires=times.get("expires"))
    return (key, text) if "revoked" not in times else (ApiKey(**{**fields(key), "revoked": times["revoked"]}), text)


def fields(key: ApiKey) -> dict[str, object]:
    return {name: getattr(key, name) for name in ApiKey.__struct_fields__}


def write(path: Path, *keys: ApiKey) -> KeyFile:
    file = KeyFile(path)
    with file.editing() as entries:
        entries[:] = keys
    return file


def bearer(key: str) -> Headers:
    return [(b"content-type", b"application/json"), (b"authorization", b"Bearer " + key.encode())]


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now.timestamp()


def test_key_has_a_recognisable_prefix_and_256_random_bits() -> None:
    (first, one), (_, two) = make(), make()
    assert one != two
    secret = one.removeprefix(PREFIX)
    assert one.startswith("locum_")
    assert set(secret) <= set(ALPHABET)
    assert len(ALPHABET) ** len(secret) > 2**256
    assert first.last4 == one[-4:]


def test_file_holds_hashes_and_no_key_and_is_for_its_owner_only(tmp_path: Path) -> None:
    key, text = make()
    file = write(tmp_path / "keys.json", key)
    content = file.path.read_text()
    assert text not in content
    assert text.removeprefix(PREFIX)[:-4] not in content
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.read() == (key,)


def test_file_stays_as_it_was_when_an_edit_fails(tmp_path: Path) -> None:
    key, _ = make()
    file = write(tmp_path / "keys.json", key)
    with pytest.raises(RuntimeError), file.editing() as entries:
        entries.clear()
        raise RuntimeError
    assert file.read() == (key,)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keys.json.lock", "keys.json"]


def test_no_edit_is_lost_when_several_are_made_at_once(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")

    def add() -> None:
        for _ in range(5):
            with file.editing() as entries:
                entries.append(make()[0])

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(file.read()) == 20


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "not a file of keys"),
        ("[]", "not a file of keys"),
        ('{"format": 1}', "missing required field `keys`"),
        ('{"format": 2, "keys": []}', "format 2"),
        ('{"format": 1, "keys": [{"name": "a"}]}', r"keys\[0\]|keys\[...\]"),
        ('{"format": 1, "keys": [], "more": 1}', "more"),
    ],
)
def test_file_is_refused_with_its_name_and_the_place_when_it_is_damaged(
    tmp_path: Path, content: str, problem: str
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(KeyFileError, match=problem) as caught:
        KeyFile(path).read()
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match=r"auth\.keys_file"):
        Keyring((), KeyFile(path))


def test_file_is_refused_when_a_time_has_no_offset(tmp_path: Path) -> None:
    key, _ = make()
    file = write(tmp_path / "keys.json", key)
    content = json.loads(file.path.read_text())
    content["keys"][0]["created"] = "2026-05-01T12:00:00"
    file.path.write_text(json.dumps(content))
    with pytest.raises(KeyFileError):
        file.read()


def test_keys_of_the_file_stand_beside_the_pairs_of_the_environment(tmp_path: Path) -> None:
    key, text = make("beta")
    path = write(tmp_path / "keys.json", key).path
    ring = Keyring.from_config(AuthConfig(keys_env="KEYS", keys_file=str(path)), {"KEYS": "acme=key-of-acme"})
    assert ring.find(bearer("key-of-acme"), "inference").tenant == "acme"
    assert ring.find(bearer(text), "inference").tenant == "beta"
    assert ring.find(bearer(text), "admin").id == key.id


def test_pairs_of_the_environment_are_not_asked_for_when_there_is_a_file(tmp_path: Path) -> None:
    ring = Keyring.from_config(AuthConfig(keys_file=str(tmp_path / "keys.json")), {})
    with pytest.raises(Unauthorized):
        ring.find(bearer("anything-at-all"), "inference")


@pytest.mark.parametrize(
    ("scopes", "wanted"), [(("inference", "feedback"), "admin"), (("admin",), "inference"), (("admin",), "feedback")]
)
def test_key_is_forbidden_what_its_scopes_do_not_name(tmp_path: Path, scopes: tuple[Scope, ...], wanted: Scope) -> None:
    key, text = make(scopes=scopes)
    ring = Keyring((), write(tmp_path / "keys.json", key))
    with pytest.raises(Forbidden) as caught:
        ring.find(bearer(text), wanted)
    assert caught.value.code == "insufficient_permissions"


def test_pair_of_the_environment_is_no_admin_key() -> None:
    with pytest.raises(Forbidden):
        ring("acme=key-of-acme").find(bearer("key-of-acme"), "admin")


def test_key_is_forbidden_from_the_moment_of_its_expiry(tmp_path: Path) -> None:
    key, text = make(expires=NOON + timedelta(hours=1))
    clock = Clock()
    ring = Keyring((), write(tmp_path / "keys.json", key), clock=clock)
    clock.now = NOON + timedelta(minutes=59, seconds=59)
    ring.find(bearer(text), "inference")
    clock.now = NOON + timedelta(hours=1)
    with pytest.raises(Forbidden) as caught:
        ring.find(bearer(text), "inference")
    assert caught.value.code == "key_expired"


def test_revoked_key_is_forbidden(tmp_path: Path) -> None:
    key, text = make(revoked=NOON)
    ring = Keyring((), write(tmp_path / "keys.json", key))
    with pytest.raises(Forbidden) as caught:
        ring.find(bearer(text), "inference")
    assert caught.value.code == "key_revoked"


def test_key_is_unknown_when_only_its_id_is_right(tmp_path: Path) -> None:
    key, text = make()
    forged = ApiKey(**{**fields(key), "sha256": key.sha256[:12] + "0" * 52})
    ring = Keyring((), write(tmp_path / "keys.json", forged))
    with pytest.raises(Unauthorized):
        ring.find(bearer(text), "inference")


def test_changed_file_is_read_again_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    (one, first), (two, second) = make("one"), make("two")
    file = write(tmp_path / "keys.json", one)
    ring = Keyring((), file)
    assert not ring.changed
    write(file.path, one, two)
    assert ring.changed
    assert ring.reload()
    assert not ring.changed
    assert ring.find(bearer(second), "inference").tenant == "two"
    good = file.path.read_bytes()
    file.path.write_bytes(good[:-40])
    assert ring.changed
    assert not ring.reload()
    assert not ring.changed  # complains once
    assert ring.find(bearer(first), "inference").tenant == "one"
    file.path.unlink()
    assert ring.changed
    assert not ring.reload()
    assert ring.find(bearer(second), "inference").tenant == "two"
    write(file.path, two)
    assert ring.changed
    assert ring.reload()
    with pytest.raises(Unauthorized):
        ring.find(bearer(first), "inference")


def test_file_that_did_not_exist_is_read_when_it_appears(tmp_path: Path) -> None:
    key, text = make()
    file = KeyFile(tmp_path / "keys.json")
    ring = Keyring((), file)
    assert not ring.changed
    write(file.path, key)
    assert ring.changed
    assert ring.reload()
    assert ring.find(bearer(text), "feedback").tenant == "acme"


# Headers


def ring(keys: str) -> Keyring:
    return Keyring.from_config(AuthConfig(keys_env="KEYS"), {"KEYS": keys})


def tenant_of(keyring: Keyring, *headers: tuple[bytes, bytes]) -> str:
    return keyring.find(list(headers), "inference").tenant


@pytest.mark.parametrize(
    "header",
    [b"Bearer key-of-b", b"bearer key-of-b", b"Bearer\tkey-of-b", b"BEARER   key-of-b \t", b" Bearer key-of-b"],
)
def test_key_names_its_tenant_however_the_header_is_spaced(header: bytes) -> None:
    assert tenant_of(ring("a=key-of-a,b=key-of-b"), (b"authorization", header)) == "b"


@pytest.mark.parametrize("name", [b"x-api-key", b"api-key"])
def test_key_is_found_where_other_clients_put_it(name: bytes) -> None:
    keys = ring("a=key-of-a,b=key-of-b")
    assert tenant_of(keys, (name, b" key-of-b ")) == "b"
    assert tenant_of(keys, (b"authorization", b"Basic dTpw"), (name, b"key-of-b")) == "b"
    assert tenant_of(keys, (name, b"key-of-b"), (b"authorization", b"Bearer key-of-a")) == "a"


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer key-of-x",
        b"key-of-a",
        b"Basic key-of-a",
        b"Bearer key-of-a x",
        b"Bearer\xff",
    ],
)
def test_request_is_refused_when_its_key_is_missing_or_wrong(header: bytes | None) -> None:
    with pytest.raises(Unauthorized):
        tenant_of(ring("a=key-of-a"), *([(b"authorization", header)] if header is not None else []))


# Pairs of the environment


def test_blanks_around_tenants_and_keys_do_not_count() -> None:
    keys = ring("  a = key-of-a ,\n b=key-of-b==\n,")
    assert keys.find(bearer("key-of-a"), "inference").tenant == "a"
    assert keys.find(bearer("key-of-b=="), "inference").tenant == "b"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("planted-secret", "is not tenant=key"),
        ("=planted-secret", "is not tenant=key"),
        (" =planted-secret", "is not tenant=key"),
        ("a=planted", "fewer than 8 characters"),
        ("a=planted        ", "fewer than 8 characters"),
        ("good=planted-secret", "tenant of an earlier entry"),
        ("good = planted-secret", "tenant of an earlier entry"),
        ("a=good-key-1", "key of an earlier entry"),
        ("a= good-key-1", "key of an earlier entry"),
        ("a=planted secret", "printable ASCII"),
        ("a=planted\x00secret", "printable ASCII"),
        ("a=planted-\udcff-secret", "printable ASCII"),
        ("a=planted-pässwörd", "printable ASCII"),
        ("a\x07b=planted-secret", "printable tenant"),
    ],
)
def test_problem_names_the_variable_and_the_entry_but_not_its_text(entry: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ring(f"good=good-key-1,,{entry}")
    message = str(caught.value)
    assert message.startswith("KEYS: entry 3 ")
    assert problem in message
    assert "planted" not in message
    assert "good-key" not in message


def test_every_wrong_entry_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ring("x,a=key-of-a,y")
    assert [line.split()[2] for line in str(caught.value).splitlines()] == ["1", "3"]


@pytest.mark.parametrize("keys", ["", " ", ",,", "\n"])
def test_empty_variable_is_refused_because_nobody_could_use_the_gateway(keys: str) -> None:
    with pytest.raises(ConfigError, match="KEYS: holds no tenant=key pair"):
        ring(keys)
