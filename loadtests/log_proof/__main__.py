"""The proof of the traffic log as a command: kills, a full disk, damage. Exit code 1 when something does not hold."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from loadtests import systems
from loadtests.children import ChildError
from loadtests.environment import describe_environment
from loadtests.log_proof.damage import DamageResult, damage_all
from loadtests.log_proof.disk import DiskResult, MountRefused, fill
from loadtests.log_proof.kills import KillResult, kill_again_and_again
from loadtests.loop import run


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was done and found."""

    environment: dict[str, str]
    seed: int
    kills: KillResult
    disk: DiskResult | None
    """None: there was no small disk; `disk_skipped` says why."""
    disk_skipped: str = ""
    damage: list[DamageResult]

    @property
    def failures(self) -> list[str]:
        disk = self.disk.failures if self.disk is not None else []
        return [*self.kills.failures, *disk, *(failure for each in self.damage for failure in each.failures)]


@click.command(epilog="Example: python -m loadtests.log_proof --kills 50 --seed 7 --json log_proof.json")
@click.option("--kills", type=click.IntRange(1, 1000), default=50, show_default=True, help="Of gateway processes.")
@click.option("--seed", type=click.IntRange(0), help="Of everything random; default: another one each time.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write everything here.")
def main(kills: int, seed: int | None, json_path: Path | None) -> None:
    """Kill gateways under load, fill their disk, damage their segments, and hold the log against what clients saw."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    try:
        proof = run(prove(kills=kills, seed=secrets.randbelow(2**32) if seed is None else seed))
    except ChildError as exc:
        raise click.ClickException(str(exc)) from exc
    show(console, proof)
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(proof, enc_hook=str), indent=1) + b"\n")
    if proof.failures:
        raise SystemExit(1)


async def prove(*, kills: int, seed: int) -> Proof:
    """Raises: ChildError: a process does not start."""
    cores = os.sched_getaffinity(0)
    disk, disk_skipped = None, ""
    with tempfile.TemporaryDirectory(prefix="locum-log-proof-") as name:
        folder, port = Path(name), systems.free_port()
        for part in ("kills", "disk", "damage"):
            (folder / part).mkdir()
        with systems.fake_backend(port, cores=cores, folder=folder):
            killed = await kill_again_and_again(folder / "kills", upstream_port=port, kills=kills, seed=seed)
            try:
                disk = await fill(folder / "disk", upstream_port=port, seed=seed)
            except MountRefused as exc:
                disk_skipped = str(exc)
        damage = await damage_all(folder / "damage", killed.segments, seed=seed)
    return Proof(
        environment=describe_environment(cores, cores),
        seed=seed,
        kills=killed,
        disk=disk,
        disk_skipped=disk_skipped,
        damage=damage,
    )


def show(console: Console, proof: Proof) -> None:
    """What was done, what was found, what failed."""
    for name in ("hardware", "python", "commit"):
        console.print(f"{name}: {proof.environment[name]}")
    console.print(f"seed: {proof.seed}")
    _show_kills(console, proof.kills)
    if proof.disk is None:
        console.print(f"small disk: not run: {proof.disk_skipped}")
    else:
        disk = proof.disk
        console.print(
            f"small disk ({disk.kind}): {disk.answered} answers, {disk.failed} requests failed; while it was full "
            f"{disk.dropped:.0f} records were counted as dropped and {disk.without_record} answers have none; written "
            f"again {disk.resumed_after_s:.2f} s after there was room"
        )
    table = Table("damage", "segments", "records", "touched", "lost", "places reported", title=None)
    for each in proof.damage:
        counts = (each.segments, each.records, each.hit, each.lost, each.reported)
        table.add_row(each.kind, *map(str, counts))
    console.print(table)
    for failure in proof.failures:
        console.print(f"FAILED: {failure}")
    if not proof.failures:
        console.print("every record of an answered request is there exactly once")


def _show_kills(console: Console, kills: KillResult) -> None:
    tally = kills.tally
    each = ", ".join(f"{target} {count}" for target, count in sorted(kills.kills.items()))
    kinds = ", ".join(
        f"{kind} {sum(value == kind for value in tally.answered.values())}" for kind in ("plain", "stream", "draft")
    )
    for line in (
        f"{sum(kills.kills.values())} kills -9 of gateways ({each}) in {kills.seconds:.0f} s; compactions: "
        f"{kills.compactions.completed} ended, {kills.compactions.killed} were killed",
        f"clients: {len(tally.answered)} answers to the last byte ({kinds}), {len(tally.judged)} judgements taken, "
        f"{tally.left} left in the middle, {tally.cut_off} cut off by a kill",
        f"log: {kills.decisions} decision records, {kills.judgements} judgements, up to {kills.segments_seen} segments",
    ):
        console.print(line)


if __name__ == "__main__":
    main()
