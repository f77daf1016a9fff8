"""Admin keys: which there are, whose they are, and how fast they can be guessed."""

from __future__ import annotations

import pytest

from router.admin.audit import Actor
from router.admin.keys import MAX_ADDRESSES, WRONG_KEYS_PER_MINUTE, AdminKeys, WrongKeys
from router.config import AuthConfig, ConfigError
from router.errors import Unauthorized

KEY = "0123456789abcdef"
AUTH = AuthConfig(admin_key_env="ADMIN")


def keys(value: str) -> AdminKeys:
    found = AdminKeys.from_config(AUTH, {"ADMIN": value})
    assert found is not None
    return found


def test_there_are_no_keys_when_none_is_configured() -> None:
    assert AdminKeys.from_config(None, {"ADMIN": KEY}) is None
    assert AdminKeys.from_config(AuthConfig(), {"ADMIN": KEY}) is None
    assert AdminKeys.from_config(AUTH, {"ADMIN": " "}) is None


def test_one_key_belongs_to_admin() -> None:
    assert keys(KEY).actor_of(f"Bearer {KEY}") == Actor("admin", "cdef")
    assert keys("Zm9vYmFyYmF6cXV4cXV1eA==").actor_of("bearer Zm9vYmFyYmF6cXV4cXV1eA==").name == "admin"


def test_named_keys_tell_people_apart() -> None:
    both = keys(f"ann={KEY}, bob={KEY[::-1]}")
    assert both.actor_of(f"Bearer {KEY}").name == "ann"
    assert both.actor_of(f"Bearer {KEY[::-1]}") == Actor("bob", "3210")


@pytest.mark.parametrize("header", [None, "", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer \udcff"])
def test_wrong_header_is_refused(header: str | None) -> None:
    with pytest.raises(Unauthorized):
        keys(KEY).actor_of(header)


def test_weak_keys_are_refused_without_a_word_of_them() -> None:
    with pytest.raises(ConfigError) as error:
        keys("short-secret, ann=tiny-secret")
    assert str(error.value).count("ADMIN: entry") == 2
    assert "secret" not in str(error.value)


def test_address_waits_when_it_has_sent_too_many_wrong_keys() -> None:
    now = 100.0
    wrong = WrongKeys(clock=lambda: now)
    for _ in range(WRONG_KEYS_PER_MINUTE):
        assert wrong.wait_s("a") == 0
        wrong.note("a")
    assert wrong.wait_s("a") == pytest.approx(60 / WRONG_KEYS_PER_MINUTE)
    assert wrong.wait_s("b") == 0
    now += 60 / WRONG_KEYS_PER_MINUTE
    assert wrong.wait_s("a") == pytest.approx(0, abs=1e-6)


def test_addresses_are_forgotten_when_there_are_too_many() -> None:
    wrong = WrongKeys(clock=lambda: 0.0)
    for number in range(MAX_ADDRESSES + 10):
        wrong.note(str(number))
    assert len(wrong._debts) == MAX_ADDRESSES
