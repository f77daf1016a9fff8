"""`locum keys`: makes, lists, rotates, revokes and expires the API keys of a configuration's `auth.keys_file`."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from router.admission.key_file import KeyFile, KeyFileError
from router.admission.keys import DEFAULT_SCOPES, NAME_PATTERN, SCOPES, ApiKey, Scope, new_key
from router.config import ConfigError
from router.config_file import load

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
WIDE = 240
"""Columns of a table: ids must not be cut, or nobody could use them."""
Command = Callable[..., Any]


class WrongInput(click.ClickException):
    exit_code = 2


class Failed(click.ClickException):
    exit_code = 1


def name(value: str) -> str:
    """What a key or a tenant may be called."""
    if not re.match(NAME_PATTERN, value, re.ASCII):
        raise click.BadParameter("use 1 to 64 letters, digits, '_', '.', '@' or '-', the first a letter or digit")
    return value


def time(value: str) -> datetime:
    """How long from now (90d, 12h, 30m, 0s), or an ISO 8601 time with its offset."""
    span = re.fullmatch(r"(\d{1,6})([smhd])", value, re.ASCII)
    if span is not None:
        return now() + timedelta(**{UNITS[span[2]]: int(span[1])})
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise click.BadParameter("use a span such as 90d, 12h or 30m, or a time such as 2030-01-31T00:00:00+00:00")
    return moment.astimezone(UTC)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _reported(command: Command) -> Command:
    """Errors as one message: exit code 2 for wrong input, 1 when the disk did not play along."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except (ConfigError, KeyFileError) as exc:
            raise WrongInput(str(exc)) from exc
        except OSError as exc:
            raise Failed(str(exc)) from exc

    return wrapped


def _file(config: Path) -> KeyFile:
    auth = load(config).auth
    if auth is None or auth.keys_file is None:
        raise ConfigError(str(config), ['auth.keys_file: is not set; add it, e.g. keys_file = "keys.json"'])
    return KeyFile(Path(auth.keys_file))


_CONFIG = click.option(
    "-c", "--config", "config", required=True, type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration; its auth.keys_file is meant.",
)  # fmt: skip
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_KEY = click.argument("key", metavar="KEY")


@click.group()
def keys() -> None:
    """API keys: only their hashes are kept. Running gateways see a change within a second.

    KEY is a key's id (`locum keys list`), or its name where only one valid key has it.
    """


@keys.command("create")
@_CONFIG
@click.option("--tenant", required=True, type=name, help="Whose key it is; [tenants.NAME] has its limits.")
@click.option("--name", "called", type=name, help="What it is called; default: the tenant.")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(SCOPES), default=DEFAULT_SCOPES, show_default=True,
    help="What it may do; may be given several times.",
)  # fmt: skip
@click.option("--expires", type=time, help="When it ends: 90d, 12h or an ISO 8601 time; default: never.")
@_JSON
@_reported
def create(
    config: Path, tenant: str, called: str | None, scopes: tuple[Scope, ...], expires: datetime | None, as_json: bool
) -> None:
    """Make a key and print it, this once.

    Example: locum keys create -c locum.toml --tenant acme --name ci --expires 90d
    """
    ordered = tuple(scope for scope in SCOPES if scope in scopes)
    with _file(config).editing() as entries:
        key, text = _fresh(entries, name=called or tenant, tenant=tenant, scopes=ordered, expires=expires)
        entries.append(key)
    _print_new(key, text, as_json)


@keys.command("list")
@_CONFIG
@_JSON
@_reported
def list_keys(config: Path, as_json: bool) -> None:
    """Show all keys, the revoked and expired ones as well.

    Example: locum keys list -c locum.toml
    """
    file = _file(config)
    entries = file.read() if file.path.exists() else ()
    moment = now()
    if as_json:
        click.echo(json.dumps([_described(key, moment) for key in entries], indent=2))
        return
    table = Table("id", "name", "tenant", "ends in", "scopes", "created", "expires", "state", box=box.SIMPLE_HEAD)
    for key in entries:
        row = _described(key, moment)
        scopes = ", ".join(key.scopes)
        table.add_row(
            key.id, key.name, key.tenant, key.last4, scopes, row["created"], row["expires"] or "never", row["state"]
        )
    Console(width=WIDE).print(table)


@keys.command("rotate")
@_CONFIG
@_KEY
@click.option(
    "--overlap", type=time, default="7d", show_default=True, help="How long the old key stays valid beside the new."
)
@click.option("--expires", type=time, help="When the new key ends; default: never.")
@_JSON
@_reported
def rotate(config: Path, key: str, overlap: datetime, expires: datetime | None, as_json: bool) -> None:
    """Make a key that replaces another one; for a while both are valid.

    Example: locum keys rotate -c locum.toml ci --overlap 2d
    """
    with _file(config).editing() as entries:
        place = _find(entries, key)
        old = entries[place]
        new, text = _fresh(entries, name=old.name, tenant=old.tenant, scopes=old.scopes, expires=expires)
        ends = overlap if old.expires is None else min(overlap, old.expires)
        entries[place] = msgspec.structs.replace(old, expires=ends)
        entries.append(new)
    _print_new(new, text, as_json)
    click.echo(f"The old key {old.id} (...{old.last4}) is valid until {ends.isoformat()}.", err=True)


@keys.command("revoke")
@_CONFIG
@_KEY
@_reported
def revoke(config: Path, key: str) -> None:
    """End a key at once and for good.

    Example: locum keys revoke -c locum.toml 3fa92c01b7de
    """
    with _file(config).editing() as entries:
        place = _find(entries, key)
        entries[place] = msgspec.structs.replace(entries[place], revoked=now())
    click.echo(f"Revoked {entries[place].id} (...{entries[place].last4}) of {entries[place].tenant}.")


@keys.command("expire")
@_CONFIG
@_KEY
@click.option("--at", "moment", type=time, help="When it ends: 7d, 0s (now) or an ISO 8601 time.")
@click.option("--never", is_flag=True, help="Let it live on instead.")
@_reported
def expire(config: Path, key: str, moment: datetime | None, never: bool) -> None:
    """Set the time at which a key ends.

    Example: locum keys expire -c locum.toml ci --at 30d
    """
    if (moment is None) != never:
        raise WrongInput("give either --at or --never")
    with _file(config).editing() as entries:
        place = _find(entries, key, expired=True)
        entries[place] = msgspec.structs.replace(entries[place], expires=moment)
    ends = moment.isoformat() if moment is not None else "never"
    click.echo(f"{entries[place].id} (...{entries[place].last4}) of {entries[place].tenant} ends: {ends}.")


def _fresh(
    entries: list[ApiKey], *, name: str, tenant: str, scopes: tuple[Scope, ...], expires: datetime | None
) -> tuple[ApiKey, str]:
    """A key whose id no other one has."""
    taken = {key.id for key in entries}
    while True:
        key, text = new_key(name=name, tenant=tenant, scopes=scopes, created=now(), expires=expires)
        if key.id not in taken:
            return key, text


def _find(entries: list[ApiKey], wanted: str, *, expired: bool = False) -> int:
    """The place of a key, by its id, or by its name among the valid ones. Raises: WrongInput.

    Args:
        expired: look at expired keys as well.
    """
    moment = now()
    states = ("valid", "expired") if expired else ("valid",)
    for place, key in enumerate(entries):
        if key.id == wanted:
            if key.state(moment) not in states:
                raise WrongInput(f"the key {wanted} is {key.state(moment)} already")
            return place
    named = [place for place, key in enumerate(entries) if key.name == wanted and key.state(moment) in states]
    if not named:
        raise WrongInput(f"no valid key has the id or name {wanted[:80]!r}; see `locum keys list`")
    if len(named) > 1:
        raise WrongInput(f"several keys are called {wanted!r}: give an id, {', '.join(entries[n].id for n in named)}")
    return named[0]


def _described(key: ApiKey, moment: datetime) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "last4": key.last4,
        "scopes": list(key.scopes),
        "created": key.created.isoformat(),
        "expires": key.expires.isoformat() if key.expires else None,
        "revoked": key.revoked.isoformat() if key.revoked else None,
        "state": key.state(moment),
    }


def _print_new(key: ApiKey, text: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"key": text, **_described(key, now())}, indent=2))
        return
    click.echo(text)
    click.echo(
        f"Key {key.id} of {key.tenant}, scopes {', '.join(key.scopes)}, "
        f"valid until {key.expires.isoformat() if key.expires else 'revoked'}. It is shown this once.",
        err=True,
    )
