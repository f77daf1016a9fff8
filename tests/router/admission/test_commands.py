"""`locum keys`: what the commands write, print and refuse."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from router.admission.key_file import KeyFile
from router.admission.keyring import Keyring
from router.admission.keys import ApiKey
from router.cli import main
from router.errors import Forbidden, LocumError, Unauthorized

CONFIG = """
[student]
base_url = "http://127.0.0.1:9/v1"
[teacher]
base_url = "http://127.0.0.1:9/v1"
[auth]
keys_file = "{}"
"""


class Keys:
    """A configuration, and the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.json"
        self.config = folder / "locum.toml"
        self.config.write_text(CONFIG.format(self.path))

    def run(self, command: str, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["keys", command, "-c", str(self.config), *arguments])

    def create(self, *arguments: str) -> str:
        result = self.run("create", *arguments)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    @property
    def entries(self) -> tuple[ApiKey, ...]:
        return KeyFile(self.path).read()

    def error_of(self, key: str, *, after: timedelta = timedelta()) -> LocumError | None:
        """What a gateway says to a request with this key, now or later."""
        ring = Keyring((), KeyFile(self.path), clock=(datetime.now(UTC) + after).timestamp)
        try:
            ring.find([(b"x-api-key", key.encode())], "inference")
        except LocumError as error:
            return error
        return None


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def test_created_key_is_printed_once_and_accepted(keys: Keys) -> None:
    key = keys.create("--tenant", "acme", "--name", "ci")
    assert keys.error_of(key) is None
    assert key not in keys.path.read_text()
    (entry,) = keys.entries
    assert (entry.tenant, entry.name, entry.last4, entry.expires) == ("acme", "ci", key[-4:], None)
    assert entry.scopes == ("inference", "feedback")


def test_created_key_ends_at_its_expiry(keys: Keys) -> None:
    key = keys.create("--tenant", "acme", "--expires", "90d")
    assert keys.error_of(key, after=timedelta(days=89)) is None
    assert isinstance(keys.error_of(key, after=timedelta(days=91)), Forbidden)


def test_created_key_may_do_only_what_its_scopes_say(keys: Keys) -> None:
    key = keys.create("--tenant", "ops", "--scope", "admin")
    error = keys.error_of(key)
    assert error is not None
    assert error.code == "insufficient_permissions"


def test_rotation_leaves_two_valid_keys_until_the_overlap_is_over(keys: Keys) -> None:
    old = keys.create("--tenant", "acme", "--name", "ci", "--scope", "inference")
    new = keys.run("rotate", "ci", "--overlap", "2d").stdout.strip()
    assert new != old
    assert keys.error_of(old) is None
    assert keys.error_of(new) is None
    assert isinstance(keys.error_of(old, after=timedelta(days=3)), Forbidden)
    assert keys.error_of(new, after=timedelta(days=3)) is None
    assert [(entry.name, entry.tenant, entry.scopes) for entry in keys.entries] == [("ci", "acme", ("inference",))] * 2


def test_rotation_never_lengthens_the_life_of_the_old_key(keys: Keys) -> None:
    old = keys.create("--tenant", "acme", "--expires", "1d")
    keys.run("rotate", "acme", "--overlap", "7d")
    assert isinstance(keys.error_of(old, after=timedelta(days=2)), Forbidden)


def test_revoked_key_is_refused_for_good(keys: Keys) -> None:
    key = keys.create("--tenant", "acme")
    result = keys.run("revoke", keys.entries[0].id)
    assert result.exit_code == 0
    error = keys.error_of(key)
    assert error is not None
    assert error.code == "key_revoked"
    for command in (["revoke"], ["rotate"], ["expire", "--never"]):
        again = keys.run(*command, keys.entries[0].id)
        assert again.exit_code == 2
        assert "revoked already" in again.output


def test_expiry_can_be_set_and_taken_back(keys: Keys) -> None:
    key = keys.create("--tenant", "acme")
    assert keys.run("expire", "acme", "--at", "0s").exit_code == 0
    assert isinstance(keys.error_of(key), Forbidden)
    assert keys.run("expire", "acme", "--never").exit_code == 0
    assert keys.error_of(key, after=timedelta(days=9999)) is None


def test_list_tells_everything_but_hashes_and_keys(keys: Keys) -> None:
    secret = keys.create("--tenant", "acme", "--name", "ci")
    keys.create("--tenant", "beta", "--expires", "0s")
    keys.run("revoke", "ci")
    result = keys.run("list", "--json")
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    assert [(row["name"], row["tenant"], row["state"]) for row in rows] == [
        ("ci", "acme", "revoked"),
        ("beta", "beta", "expired"),
    ]
    table = keys.run("list").stdout
    for entry in keys.entries:
        assert entry.id in table
        assert entry.last4 in table
        assert entry.sha256 not in table + result.stdout
    assert secret not in table + result.stdout


def test_list_is_empty_when_no_key_was_made_yet(keys: Keys) -> None:
    assert json.loads(keys.run("list", "--json").stdout) == []
    assert not keys.path.exists()


def test_name_is_not_enough_when_two_valid_keys_have_it(keys: Keys) -> None:
    keys.create("--tenant", "acme")
    keys.run("rotate", "acme")
    result = keys.run("revoke", "acme")
    assert result.exit_code == 2
    for entry in keys.entries:
        assert entry.id in result.output
        assert entry.revoked is None


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (["create"], "--tenant"),
        (["create", "--tenant", "a b"], "letters, digits"),
        (["create", "--tenant", "acme", "--expires", "soon"], "90d"),
        (["create", "--tenant", "acme", "--expires", "2030-01-31T00:00:00"], "90d"),
        (["create", "--tenant", "acme", "--scope", "everything"], "everything"),
        (["revoke", "nobody"], "no valid key has the id or name 'nobody'"),
        (["expire", "nobody"], "--at or --never"),
    ],
)
def test_wrong_input_is_exit_code_2_and_says_what_is_wrong(keys: Keys, command: list[str], problem: str) -> None:
    result = keys.run(*command)
    assert result.exit_code == 2
    assert problem in result.output


def test_configuration_without_a_file_of_keys_is_refused_with_the_key_to_add(keys: Keys) -> None:
    keys.config.write_text(keys.config.read_text().partition("[auth]")[0])
    result = keys.run("create", "--tenant", "acme")
    assert result.exit_code == 2
    assert "auth.keys_file" in result.output


def test_damaged_file_is_refused_and_not_replaced(keys: Keys) -> None:
    keys.path.write_text("{")
    result = keys.run("create", "--tenant", "acme")
    assert result.exit_code == 2
    assert str(keys.path) in result.output
    assert keys.path.read_text() == "{"


def test_unknown_key_is_unauthorized(keys: Keys) -> None:
    keys.create("--tenant", "acme")
    assert isinstance(keys.error_of("locum_" + "a" * 43), Unauthorized)
