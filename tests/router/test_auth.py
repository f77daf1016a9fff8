"""API keys: which are accepted, and that no error repeats one."""

from __future__ import annotations

import pytest

from router.auth import Keyring
from router.config import AuthConfig, ConfigError
from router.errors import Unauthorized


def ring(keys: str) -> Keyring:
    return Keyring.from_config(AuthConfig(keys_env="KEYS"), {"KEYS": keys})


@pytest.mark.parametrize(
    "header",
    [b"Bearer key-of-b", b"bearer key-of-b", b"Bearer\tkey-of-b", b"BEARER   key-of-b \t", b" Bearer key-of-b"],
)
def test_key_names_its_tenant_however_the_header_is_spaced(header: bytes) -> None:
    assert ring("a=key-of-a,b=key-of-b").tenant_of(header) == "b"


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
        ring("a=key-of-a").tenant_of(header)


def test_every_request_is_the_default_tenant_s_without_keys() -> None:
    assert Keyring.from_config(None, {}).tenant_of(None) == "default"


def test_blanks_around_tenants_and_keys_do_not_count() -> None:
    keys = ring("  a = key-of-a ,\n b=key-of-b==\n,")
    assert keys.tenant_of(b"Bearer key-of-a") == "a"
    assert keys.tenant_of(b"Bearer key-of-b==") == "b"


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
