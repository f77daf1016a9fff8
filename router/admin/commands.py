"""`locum policy`: the live policy document of a running gateway, from the command line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn, TypeVar

import click

from router.admin.client import AdminClient, Refused, Unreachable

NEGATIVE = 1
WRONG_INPUT = 2
WRONG_INPUT_STATUSES = frozenset({400, 401, 403, 404, 413, 415, 428})

F = TypeVar("F", bound=Callable[..., Any])


def _gateway_options(command: F) -> F:
    url = click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The gateway.")
    key = click.option(
        "--key-env", default="LOCUM_ADMIN_KEY", show_default=True, help="Environment variable with the admin key."
    )
    return url(key(command))


def _comment_option(command: F) -> F:
    return click.option("--comment", "-m", default="", help="Why; kept in the history and the audit log.")(command)


def _json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print the gateway's JSON.")(command)


@click.group()
def policy() -> None:
    """Read and change the policy document of a running gateway.

    Exit code 1: `validate` found it invalid, somebody else was faster, or no gateway answers; 2: the input is wrong.
    """


@policy.command()
@_gateway_options
@click.option("--version", type=int, help="An earlier version; default: the one in force.")
def get(url: str, key_env: str, version: int | None) -> None:
    """Print a version as JSON, in the form that `put` takes.

    Example: locum policy get > policy.json
    """
    path = "policy" if version is None else f"policy/{version}"
    _print_json(_call(url, key_env, "GET", path))


@policy.command()
@_gateway_options
@_comment_option
@_json_option
@click.option("--expect", type=int, help="The version that it replaces; default: the one that the file was read as.")
@click.option("--force", is_flag=True, help="Replace whatever is in force.")
@click.argument("file", type=click.File("rb"))
def put(url: str, key_env: str, comment: str, as_json: bool, expect: int | None, force: bool, file: BinaryIO) -> None:
    """Install a document: what `get` printed, edited, or its `document` alone.

    Exit code 1 when somebody else was faster. Example: locum policy put policy.json -m "stricter retrieval"
    """
    document, read_as = _document(file)
    expected = expect if expect is not None else read_as
    if force:
        expected = _call(url, key_env, "GET", "policy")["version"]
    if expected is None:
        _wrong_input("--expect: say which version this replaces, or --force")
    body = {"document": document, "expected_version": expected, "comment": comment}
    installed = _call(url, key_env, "PUT", "policy", body=body)
    _print_json(installed) if as_json else click.echo(_line(installed))


@policy.command()
@_gateway_options
@_json_option
@click.option("--records", type=click.IntRange(0, 10_000), default=1_000, show_default=True,
              help="Logged requests that are decided again.")  # fmt: skip
@click.argument("file", type=click.File("rb"))
def validate(url: str, key_env: str, as_json: bool, records: int, file: BinaryIO) -> None:
    """Try a document: everything that `put` checks, what would change, and where logged requests would go.

    Exit code 1 when it is invalid. Example: locum policy validate policy.json
    """
    document, _ = _document(file)
    result = _call(url, key_env, "POST", "policy/validate", body={"document": document, "records": records})
    if as_json:
        _print_json(result)
    else:
        _print_changes(result.get("diff", []))
        _print_effect(result.get("effect"))
        for problem in result["problems"]:
            click.echo(f"problem: {problem}")
        click.echo("valid" if result["valid"] else "not valid")
    if not result["valid"]:
        raise SystemExit(NEGATIVE)


@policy.command()
@_gateway_options
@_json_option
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="How many versions.")
def history(url: str, key_env: str, as_json: bool, limit: int) -> None:
    """List versions, newest first: * is in force.

    Example: locum policy history
    """
    found = _call(url, key_env, "GET", "policy/history", query={"limit": limit})
    if as_json:
        _print_json(found)
        return
    for version in found["versions"]:
        click.echo(f"{'*' if version['version'] == found['current'] else ' '} {_line(version)}")


@policy.command()
@_gateway_options
@_comment_option
@_json_option
@click.option("--to", type=int, help="The version whose content is wanted; default: one step back.")
def rollback(url: str, key_env: str, comment: str, as_json: bool, to: int | None) -> None:
    """Make a new version with the content of an earlier one.

    Example: locum policy rollback --to 4 -m "too many escalations"
    """
    body = {"comment": comment} | ({} if to is None else {"to": to})
    installed = _call(url, key_env, "POST", "policy/rollback", body=body)
    _print_json(installed) if as_json else click.echo(_line(installed))


@policy.command()
@_gateway_options
@_json_option
@click.option("--from", "before", type=int, help="Default: the version before.")
@click.option("--to", "after", type=int, help="Default: the version in force.")
def diff(url: str, key_env: str, as_json: bool, before: int | None, after: int | None) -> None:
    """Show what changed from one version to another.

    Example: locum policy diff --from 3 --to 5
    """
    query = {name: number for name, number in (("from", before), ("to", after)) if number is not None}
    found = _call(url, key_env, "GET", "policy/diff", query=query)
    if as_json:
        _print_json(found)
    else:
        click.echo(f"version {found['from']} -> {found['to']}")
        _print_changes(found["changes"])


@policy.command()
@_gateway_options
@_json_option
@click.option("--comment", "-m", required=True, help="Why its promise holds all the same; kept in the audit log.")
@click.argument("name")
def acknowledge(url: str, key_env: str, comment: str, as_json: bool, name: str) -> None:
    """Answer for the certificate of the policy NAME, which drift has voided: it counts again, until drift rings anew.

    Exit code 1 when there is nothing to acknowledge.
    Example: locum policy acknowledge cascade -m "new template, answers checked"
    """
    standing = _call(url, key_env, "POST", "certificates/acknowledge", body={"policy": name, "comment": comment})
    _print_json(standing) if as_json else click.echo(f"{name}: certificate {standing['status']}")


def _call(
    url: str, key_env: str, method: str, path: str, *, body: Any = None, query: dict[str, int] | None = None
) -> dict[str, Any]:
    """The gateway's answer; ends the command when there is none."""
    key = os.environ.get(key_env, "").strip()
    if not key:
        _wrong_input(f"--key-env: the environment variable {key_env} is not set")
    try:
        return AdminClient(url, key).call(method, path, body=body, query=query)
    except Refused as exc:
        _stop(WRONG_INPUT if exc.status in WRONG_INPUT_STATUSES else NEGATIVE, str(exc))
    except Unreachable as exc:
        _stop(NEGATIVE, str(exc))


def _document(file: BinaryIO) -> tuple[dict[str, Any], int | None]:
    """The document in a file, and the version that it was read as."""
    try:
        content = json.load(file)
    except (ValueError, RecursionError) as exc:
        _wrong_input(f"{file.name}: not JSON: {exc}")
    if not isinstance(content, dict):
        _wrong_input(f"{file.name}: must hold an object")
    if "document" not in content:
        return content, None
    document, version = content["document"], content.get("version")
    if not isinstance(document, dict):
        _wrong_input(f"{file.name}: document must be an object")
    return document, version if isinstance(version, int) else None


def _line(version: dict[str, Any]) -> str:
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(version["created_s"]))
    comment = f"  {version['comment']}" if version["comment"] else ""
    return f"version {version['version']}  {made}  {version['source']}, {version['author']}{comment}"


def _print_changes(changes: list[dict[str, Any]]) -> None:
    for change in changes:
        before = json.dumps(change["before"]) if "before" in change else "absent"
        after = json.dumps(change["after"]) if "after" in change else "absent"
        click.echo(f"{change['key']}: {before} -> {after}")
    if not changes:
        click.echo("no changes")


def _print_effect(effect: dict[str, Any] | None) -> None:
    if not effect or not effect.get("records"):
        return
    before, after = effect["teacher_share_before"], effect["teacher_share_after"]
    click.echo(
        f"of the last {effect['records']} logged requests {effect['changed']} would go elsewhere; "
        f"share of the teacher {before:.1%} -> {after:.1%}"
    )
    for move, count in effect["moves"].items():
        click.echo(f"  {count:6}  {move}")


def _print_json(content: dict[str, Any]) -> None:
    click.echo(json.dumps(content, indent=2))


def _wrong_input(problem: str) -> NoReturn:
    _stop(WRONG_INPUT, problem)


def _stop(code: int, problem: str) -> NoReturn:
    for line in problem.splitlines():
        click.echo(f"error: {line}", err=True)
    raise SystemExit(code)
