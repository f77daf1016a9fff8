"""`locum student list | promote | rollback`, and the registry's part of `status`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from serving.errors import RegistryError, UnknownBundle, describe_log
from serving.pointer import Pointer
from serving.registry import Registry
from serving.switch_state import SwitchState, has_owner, read_state
from serving.target import FAILED, registry_of, stop, wrong_input

WAIT_TIMEOUT_S = 900.0
WAIT_INTERVAL_S = 0.2

F = TypeVar("F", bound=Callable[..., Any])
Say = Callable[[str], None]


def registry_options(command: F) -> F:
    config = click.option("-c", "--config", type=click.Path(path_type=Path), help="The gateway's configuration file.")
    folder = click.option("--registry", "folder", type=click.Path(path_type=Path), help="Folder of bundles.")
    return config(folder(command))


def change_options(command: F) -> F:
    """What promote and rollback have in common."""
    reason = click.option("--reason", help="Why; kept in the registry's history.")
    wait = click.option("--wait", is_flag=True, help="Until the running gateway serves it.")
    timeout = click.option(
        "--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), default=WAIT_TIMEOUT_S, show_default=True,
        help="Seconds that --wait waits.",
    )  # fmt: skip
    as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    return registry_options(reason(wait(timeout(as_json(command)))))


@click.command("list")
@registry_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_bundles(config: Path | None, folder: Path | None, as_json: bool) -> None:
    """Show the bundles of a registry, oldest first: * is current, < is what a rollback goes back to.

    Example: locum student list -c locum.toml
    """
    registry = registry_of(config, folder)
    try:
        pointer = registry.pointer()
        rows = [
            {**msgspec.to_builtins(bundle), "verdict": registry.manifest(bundle.bundle_id).verdict}
            for bundle in registry.list()
        ]
        damaged = dict(registry.damaged())
    except RegistryError as exc:
        stop(FAILED, str(exc))
    current = pointer.bundle_id if pointer else None
    previous = pointer.earlier[0] if pointer and pointer.earlier else None
    if as_json:
        click.echo(
            json.dumps(
                {
                    "registry": str(registry.root),
                    "current": current,
                    "previous": previous,
                    "bundles": rows,
                    "damaged": damaged,
                }
            )
        )
        return
    for row in rows:
        mark = {current: "*", previous: "<"}.get(row["bundle_id"], " ")
        threshold = row["cascade_threshold"]
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created_s"]))
        click.echo(
            f"{mark} {row['bundle_id']}  {row['verdict']:<12}  {made}  {row['model_bytes'] / 1e6:,.0f} MB  "
            f"{row['quantization'] or 'not quantized'}  threshold {'-' if threshold is None else f'{threshold:.3f}'}"
        )
    for name, problem in damaged.items():
        click.echo(f"! {name}  damaged: {problem}")
    if not rows and not damaged:
        click.echo(f"no bundles in {registry.root}")


@click.command()
@change_options
@click.option("--force", is_flag=True, help="Whatever the verdict; needs --reason.")
@click.argument("bundle_id")
def promote(
    config: Path | None,
    folder: Path | None,
    reason: str | None,
    wait: bool,
    timeout_s: float,
    as_json: bool,
    force: bool,
    bundle_id: str,
) -> None:
    """Make a bundle the one that the gateway serves.

    Every file is verified against the manifest first. Exit code 1 when the bundle is damaged, when its verdict is not
    `pass`, or when --wait sees it fail; 2 when there is no such bundle. The gateway loads it beside the one that
    serves, which takes the memory of both for a while; promoting the current bundle again makes it retry.

    \b
    Examples: locum student promote student-0123456789ab -c locum.toml --wait
              locum student promote ID --registry students --force --reason "only the formatting suite fails"
    """
    registry = registry_of(config, folder)
    if force and not (reason or "").strip():
        wrong_input("--force: needs --reason TEXT; it is kept in the history")
    pointer = _changed(lambda: registry.promote(bundle_id, force=force, reason=reason))
    _finish(registry, pointer, timeout_s if wait else None, as_json=as_json)


@click.command()
@change_options
def rollback(
    config: Path | None, folder: Path | None, reason: str | None, wait: bool, timeout_s: float, as_json: bool
) -> None:
    """Go back to the bundle that was current before; a second time, to the one before that.

    Example: locum student rollback -c locum.toml --reason "latency" --wait
    """
    registry = registry_of(config, folder)
    pointer = _changed(lambda: registry.rollback(reason=reason))
    _finish(registry, pointer, timeout_s if wait else None, as_json=as_json)


def _changed(change: Callable[[], Pointer]) -> Pointer:
    try:
        return change()
    except UnknownBundle as exc:
        wrong_input(str(exc))
    except (RegistryError, OSError) as exc:
        stop(FAILED, str(exc), "nothing was changed")


def _finish(registry: Registry, pointer: Pointer, timeout_s: float | None, *, as_json: bool) -> None:
    if not as_json:
        before = f", before it {pointer.change.before}" if pointer.change.before else ""
        forced = f" by force (verdict {pointer.change.verdict})" if pointer.change.forced else ""
        click.echo(f"current: {pointer.bundle_id}{forced}{before}")
    problem = None
    if timeout_s is not None:
        problem = wait_until_serving(registry.root, pointer, timeout_s, lambda line: click.echo(line, err=True))
    if as_json:
        waited = {} if timeout_s is None else {"serving": problem is None, "problem": problem}
        click.echo(json.dumps({**msgspec.to_builtins(pointer), **waited}))
    if problem is not None:
        stop(FAILED, problem)


def wait_until_serving(root: Path, pointer: Pointer, timeout_s: float, say: Say) -> str | None:
    """Follow the running gateway until it serves what the pointer says: None, or why it does not."""
    started_s, shown = time.monotonic(), ""
    while True:
        state = read_state(root)
        current = state if state and has_owner(root) and state.sequence >= pointer.sequence else None
        if current is not None:
            if current.sequence > pointer.sequence:
                return f"{pointer.bundle_id} was superseded by {current.wanted}"
            if current.phase == "serving" and current.process == "ready":
                return None
            if current.phase == "failed":
                return "\n".join([current.message, *(describe_log(current.log_tail) if current.log_tail else ())])
        elapsed_s = time.monotonic() - started_s
        line = _progress(root, current)
        if line != shown:
            say(f"[{elapsed_s:6.1f} s] {line}")
            shown = line
        if elapsed_s > timeout_s:
            return f"{pointer.bundle_id} does not serve after {timeout_s:g} s ({line}); it is current all the same"
        time.sleep(WAIT_INTERVAL_S)


def _progress(root: Path, current: SwitchState | None) -> str:
    if current is not None:
        return f"{current.phase}: {current.message}"
    return "the gateway has not seen it yet" if has_owner(root) else "no gateway runs on this registry"


class RegistryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The registry's part of `locum student status`."""

    folder: str
    current: str | None
    previous: str | None
    pointer: Pointer | None
    gateway_runs: bool
    state: SwitchState | None
    """What the gateway, running or not, has said last."""


def status_of(registry: Registry) -> RegistryStatus:
    """Raises: RegistryError."""
    pointer = registry.pointer()
    return RegistryStatus(
        folder=str(registry.root),
        current=pointer.bundle_id if pointer else None,
        previous=pointer.earlier[0] if pointer and pointer.earlier else None,
        pointer=pointer,
        gateway_runs=has_owner(registry.root),
        state=read_state(registry.root),
    )


def describe_status(status: RegistryStatus) -> list[str]:
    lines = [f"current:  {status.current or 'none; `locum student promote ID`'}"]
    if status.pointer is not None:
        change = status.pointer.change
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(change.time_s))
        lines[0] += f" ({change.action} {when}, verdict {change.verdict}{', forced' if change.forced else ''})"
    lines.append(f"previous: {status.previous or 'none'}")
    state = status.state
    if not status.gateway_runs or state is None:
        lines.append("gateway:  none runs on this registry")
    else:
        lines.append(f"gateway:  {state.phase}: {state.message}; serves {state.serving or 'nothing'}")
    return lines
