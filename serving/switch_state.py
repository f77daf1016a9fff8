"""`state.json` in a registry: what the running gateway has made of the pointer, for people and for `--wait`."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Literal

import msgspec

from policies.durable import UNFINISHED
from serving.errors import LaunchError
from serving.locks import try_lock

STATE_FILE, OWNER_FILE = "state.json", ".gateway"
STATE_SCHEMA = 1

Phase = Literal[
    "empty", "verifying", "starting", "warming", "installing", "stopping_old", "serving", "failed", "stopped"
]


class SwitchState(msgspec.Struct, frozen=True, kw_only=True):
    """One moment of a `StudentSwitch`.

    `empty`: nothing has been promoted yet. `verifying`: the wanted bundle's files are compared with its manifest before
    anything is started from them. `starting`, `warming`: the wanted bundle loads, `serving` names the one that
    still answers. `installing`: new requests go to the wanted one, the old one finishes its own. `failed`: the wanted
    bundle does not serve; `serving` does, when there is one. `stopped`: no gateway runs.
    """

    schema: int = STATE_SCHEMA
    phase: Phase
    time_s: float
    """When this was written, and when the phase began, in seconds since 1970."""
    since_s: float
    pid: int
    sequence: int = 0
    """Of the change of the pointer that this is about; 0 before the first."""
    wanted: str | None = None
    serving: str | None = None
    base_url: str | None = None
    """Of the bundle that serves."""
    process: str | None = None
    """Its process: starting, ready, unhealthy, restarting or failed."""
    message: str = ""
    log_tail: tuple[str, ...] = ()
    """Why it failed."""


def read_state(root: Path) -> SwitchState | None:
    """None when no gateway has served this registry, or its file is of another version. A gateway that was killed
    leaves its last state: see `has_owner`."""
    try:
        return msgspec.json.decode((root / STATE_FILE).read_bytes(), type=SwitchState)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def write_state(root: Path, state: SwitchState) -> None:
    """Atomic for readers; not synced, since it is worth nothing after a power cut. Only the owner writes it."""
    temporary = root / f"{STATE_FILE}.{os.getpid()}.partial"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=1))
    temporary.replace(root / STATE_FILE)


def own(root: Path) -> int | None:
    """A descriptor that makes this process the one that serves the registry, until it is closed; None when there is
    another one. What an owner that was killed had half written is removed."""
    (root / OWNER_FILE).touch()
    descriptor = try_lock(root / OWNER_FILE)
    if descriptor is not None:
        for path in root.glob(f"{STATE_FILE}{UNFINISHED}"):
            path.unlink(missing_ok=True)
    return descriptor


async def become_owner(root: Path, *, wait_s: float, interval_s: float) -> int:
    """`own`, waiting for another owner to end. Raises: LaunchError: it does not."""
    deadline_s = time.monotonic() + wait_s
    while (descriptor := own(root)) is None:
        if time.monotonic() > deadline_s:
            other = read_state(root)
            who = f" (process {other.pid})" if other else ""
            raise LaunchError(f"student.registry: another gateway{who} serves {root}; give each its own registry")
        await asyncio.sleep(interval_s)
    return descriptor


def has_owner(root: Path) -> bool:
    """Whether a gateway runs on this registry."""
    if not (root / OWNER_FILE).exists():
        return False
    descriptor = try_lock(root / OWNER_FILE)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False
