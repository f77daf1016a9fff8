"""Gateways under load are killed at random points, again and again; then the log is held against what clients saw."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import msgspec

from loadtests.log_proof.clients import Clients, Tally
from loadtests.log_proof.compactions import Compactions, CompactionTally
from loadtests.log_proof.gateways import Gateways, Target
from loadtests.log_proof.ledger import Held, held, locum_log

CLIENTS = 12
ANSWERS_BETWEEN = 15
"""So many at least from one kill to the next, so that each comes under load."""
LONGEST_WAIT_S = 1.0
"""And a random time up to this."""
TARGETS: tuple[Target, ...] = ("worker",) * 6 + ("parent", "parent") + ("all", "all")
"""The shares."""
VERIFY_EVERY = 10
LEAST_LINES = 4
MOST_COPIES = 40


class KillResult(msgspec.Struct):
    """What was done and what is left of it."""

    kills: dict[str, int]
    tally: Tally
    compactions: CompactionTally
    orphans_killed: int
    seconds: float
    segments_seen: int
    """Most segments that lay in the folder at once."""
    segments: list[Path]
    """Copies of some that gateways wrote last."""
    decisions: int
    judgements: int
    failures: list[str]


async def kill_again_and_again(folder: Path, *, upstream_port: int, kills: int, seed: int) -> KillResult:
    """Raises: ChildError: a gateway does not come back."""
    log = folder / "traffic"
    log.mkdir()
    chance = random.Random(seed)  # noqa: S311 - repeatable, not a secret
    gateways = Gateways(folder, log, upstream_port=upstream_port)
    compactions = Compactions(log, seed + 1)
    failures: list[str] = []
    done: Counter[str] = Counter()
    start_s, most = time.monotonic(), 0
    await gateways.start()
    port = [gateways.port]
    compacting = asyncio.create_task(compactions.run())
    try:
        async with Clients(port, count=CLIENTS, seed=seed + 2) as clients:
            for number in range(kills):
                if not await clients.answers(ANSWERS_BETWEEN, timeout_s=60):
                    failures.append(f"before kill {number + 1} no answers came")
                await asyncio.sleep(chance.uniform(0, LONGEST_WAIT_S))
                most = max(most, sum(1 for _ in log.glob("*.seg")))
                target = chance.choice(TARGETS)
                await gateways.kill(target, chance.randrange(2))
                port[0] = gateways.port
                done[target] += 1
                if (number + 1) % VERIFY_EVERY == 0:
                    failures += await _unsound(log, f"after {number + 1} kills")
            await clients.answers(ANSWERS_BETWEEN, timeout_s=60)
    finally:
        compacting.cancel()
        with suppress(asyncio.CancelledError):
            await compacting
        await gateways.stop()
    failures += await _unsound(log, "at the end")
    copies = _copied(log, folder / "segments")
    code, _, messages = await locum_log("compact", str(log))
    if code:
        failures.append(f"the last compaction failed: {messages[-500:]}")
    failures += await _unsound(log, "after the last compaction")
    kept = await asyncio.to_thread(held, log)
    if gateways.orphans_killed:
        failures.append(f"{gateways.orphans_killed} workers outlived their parent")
    return KillResult(
        kills=dict(done),
        tally=clients.tally,
        compactions=compactions.tally,
        orphans_killed=gateways.orphans_killed,
        seconds=time.monotonic() - start_s,
        segments_seen=most,
        segments=copies,
        decisions=len(kept.decisions),
        judgements=len(kept.judgements),
        failures=failures + differences(clients.tally, kept) + compactions.tally.failed,
    )


def _copied(log: Path, folder: Path) -> list[Path]:
    """The segments that are not compacted yet, without torn ends and short ones."""
    folder.mkdir()
    copies: list[Path] = []
    for path in sorted(log.glob("*.seg")):
        data = path.read_bytes()
        data = data[: data.rfind(b"\n") + 1]
        if data.count(b"\n") >= LEAST_LINES and len(copies) < MOST_COPIES:
            copy = folder / path.name
            copy.write_bytes(data)
            copies.append(copy)
    return copies


def differences(tally: Tally, kept: Held) -> list[str]:
    """What clients saw and the log does not hold exactly once."""
    found = []
    for what, wanted, there in (
        ("answers", tally.answered, kept.decisions),
        ("judgements", tally.judged, kept.judgements),
    ):
        if missing := [identity for identity in wanted if identity not in there]:
            found.append(f"{len(missing)} {what} have no record, e.g. {missing[0]}")
        if doubled := [identity for identity, count in there.items() if count > 1]:
            found.append(f"{len(doubled)} records of {what} are there more than once, e.g. {doubled[0]}")
    if kept.damaged_lines:
        found.append(f"{kept.damaged_lines} lines are damaged")
    if tally.repeated:
        found.append(f"{tally.repeated} answers had an id that another one had before")
    return found


async def _unsound(log: Path, when: str) -> list[str]:
    """What `locum log verify` finds."""
    code, said, messages = await locum_log("verify", str(log))
    if code == 0 and said.get("sound"):
        return []
    return [f"verify {when}: exit code {code}, {len(said.get('damaged', ()))} damaged, "
            f"{len(said.get('doubled', ()))} doubled; {messages[-300:]}"]  # fmt: skip
