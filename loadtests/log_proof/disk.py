"""A small disk fills up under load and is freed again: no request may notice, the log goes on by itself."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import msgspec

from loadtests.log_proof.clients import Clients
from loadtests.log_proof.gateways import Gateways
from loadtests.log_proof.ledger import held, locum_log

DISK_BYTES = 24 * 2**20
LEFT_BYTES = 96 * 1024
"""What the filler leaves free: some tens of records."""
CLIENTS = 8
ANSWERS = 150
"""In each phase."""


class MountRefused(Exception):
    """No small disk can be made here; the message says why."""


class DiskResult(msgspec.Struct):
    kind: str
    """tmpfs, or ext4 on a loop device."""
    answered: int
    failed: int
    dropped: float
    """By the gateway's own counter, while the disk was full."""
    without_record: int
    """Answers that have none."""
    resumed_after_s: float
    """From the moment at which there was room again to the first record that was written."""
    failures: list[str]


@contextmanager
def small_disk(folder: Path) -> Iterator[tuple[Path, str]]:
    """A mounted file system of DISK_BYTES, and of which kind. Raises: MountRefused."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        raise MountRefused("mounting a file system needs root")
    place = folder / "disk"
    place.mkdir()
    kind = "tmpfs"
    refused = _said([mount, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)])
    if refused:
        kind, mkfs = (
            "ext4 on a loop device",
            shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path="/usr/sbin:/sbin"),
        )
        image = folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        loop = _said([mkfs, "-q", str(image)]) if mkfs else "there is no mkfs.ext4"
        loop = loop or _said([mount, "-o", "loop", str(image), str(place)])
        if loop:
            raise MountRefused(f"mounting is not permitted here: tmpfs: {refused}; loop device: {loop}")
    try:
        yield place, kind
    finally:
        subprocess.run([umount, "--lazy", str(place)], check=True)


def _said(command: list[str]) -> str:
    """What a command complains about; empty when it has succeeded."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


async def fill(folder: Path, *, upstream_port: int, seed: int) -> DiskResult:
    """Raises: MountRefused, ChildError."""
    with small_disk(folder) as (disk, kind):
        log = disk / "traffic"
        gateways = Gateways(folder, log, upstream_port=upstream_port, write_timeout_s=5.0)
        await gateways.start()
        try:
            async with Clients([gateways.port], count=CLIENTS, seed=seed) as clients:
                phases = [await clients.answers(ANSWERS, timeout_s=60)]
                filler = disk / "filler"
                _take_all(filler, disk)
                full_since_s = time.monotonic()
                phases.append(await clients.answers(ANSWERS, timeout_s=60))
                while await _dropped(gateways.port) == 0 and time.monotonic() - full_since_s < 60:
                    await clients.answers(1, timeout_s=10)
                filler.unlink()
                resumed_after_s = await _resumed(log)
                dropped = await _dropped(gateways.port)
                behind = set(clients.tally.answered)
                phases.append(await clients.answers(ANSWERS, timeout_s=60))
                late = await _dropped(gateways.port) - dropped
        finally:
            await gateways.stop()
        code, said, messages = await locum_log("verify", str(log))
        kept = held(log)
    tally = clients.tally
    missing = [identity for identity in tally.answered if identity not in kept.decisions]
    failed = sum(tally.refused.values()) + tally.cut_off + tally.unreachable
    checks = {
        f"{failed} requests failed: {tally.refused}": not failed,
        "answers did not come": all(phases),
        "the counter of dropped records stands at 0": dropped > 0,
        f"{len(missing)} answers have no record, but only {dropped:.0f} were counted": len(missing) <= dropped,
        f"{late:.0f} records were dropped when there was room again": late == 0,
        "answers that came when there was room again have no record": not set(missing) - behind,
        f"verify: exit code {code}; {messages[-300:]}": code == 0 and bool(said.get("sound")),
    }
    return DiskResult(
        kind=kind,
        answered=len(tally.answered),
        failed=failed,
        dropped=dropped,
        without_record=len(missing),
        resumed_after_s=resumed_after_s,
        failures=[what for what, holds in checks.items() if not holds],
    )


def _take_all(filler: Path, disk: Path) -> None:
    """Write until only LEFT_BYTES are free."""
    state = os.statvfs(disk)
    filler.write_bytes(bytes(max(0, state.f_bavail * state.f_bsize - LEFT_BYTES)))


async def _resumed(log: Path) -> float:
    """Seconds until the log grows again; infinite when it does not."""
    start_s, before = time.monotonic(), _size(log)
    while time.monotonic() - start_s < 30:
        if _size(log) > before:
            await asyncio.sleep(0.5)  # what was refused just before is counted by now
            return time.monotonic() - start_s - 0.5
        await asyncio.sleep(0.01)
    return float("inf")


def _size(log: Path) -> int:
    return sum(path.stat().st_size for path in log.glob("*.seg"))


async def _dropped(port: int) -> float:
    """Records that the gateway says it could not write."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        with suppress(httpx.HTTPError):
            text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
            found = re.findall(r"^router_spool_dropped_total\{.*\} (\S+)$", text, re.MULTILINE)
            return sum(map(float, found))
    return 0.0
