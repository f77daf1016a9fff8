"""Cases about the gateway's process, and about upstreams that stay dead."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from loadtests.faults.judge_streams import is_whole
from loadtests.faults.judging import Verdict
from loadtests.faults.stage import FIRST_WORD, PATIENCE_S, SECOND_WORD, Stage
from loadtests.faults.transcript import describe, read_stream

EXIT_WITHIN_S = 6.0
DEAD_REQUESTS = 8
EJECTED_WITHIN_S = 0.5
BACK_WITHIN_S = 10.0
POLL_BACK_S = 0.25


async def drains(stage: Stage, directive: str) -> Verdict:
    """SIGTERM while a stream runs: it is finished, new work is refused, and the process ends."""
    stage.system.check_stoppable()
    async with stage.connect() as client:
        await client.send(stage.request(stage.body(directive, stream=True)))
        await client.receive(PATIENCE_S, until=FIRST_WORD.encode())
        os.kill(stage.child.pid, signal.SIGTERM)
        await asyncio.sleep(0.3)
        refused = await stage.post(stage.request(stage.body("")), patience_s=EXIT_WITHIN_S / 2)
        seen = await client.receive(PATIENCE_S)
    ended_s = await stage.happens(lambda: not is_alive(stage.child.pid), EXIT_WITHIN_S)
    finished = read_stream(seen.body).complete and seen.end == "complete"
    accepted = refused.status == 200
    saw = (
        f"the stream was {'finished' if finished else 'cut'}; new work got {_new_work(refused.status)}; the process "
        f"{'ended' if ended_s is not None else f'still ran {EXIT_WITHIN_S:g} s later'}"
    )
    return Verdict(finished and not accepted and ended_s is not None, saw)


def _new_work(status: int) -> str:
    return f"status {status}" if status else "no connection"


def is_alive(pid: int) -> bool:
    """Whether a process runs; a dead child that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def ejects(stage: Stage, directive: str) -> Verdict:
    """The first upstream accepts requests and never answers: after a few it is left alone, and asked again later."""
    answers = [await stage.ask(directive, stream=True, patience_s=PATIENCE_S) for _ in range(DEAD_REQUESTS)]
    good = sum(is_whole(seen, SECOND_WORD) for seen in answers)
    slowest_s = max(seen.elapsed_s for seen in answers[-2:])
    back_s = await _back(stage)
    saw = (
        f"{good} of {DEAD_REQUESTS} requests were answered, the last two within {slowest_s:.1f} s; "
        f"{'not back' if back_s is None else f'back after {back_s:.1f} s'} when it was well again"
    )
    if good < DEAD_REQUESTS:
        saw += f"; {describe(next(seen for seen in answers if not is_whole(seen, SECOND_WORD)))}"
    return Verdict(good == DEAD_REQUESTS and slowest_s < EJECTED_WITHIN_S and back_s is not None, saw)


async def _back(stage: Stage) -> float | None:
    """Seconds until the first upstream, well again, answers a client."""
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    while loop.time() - started_s < BACK_WITHIN_S:
        if is_whole(await stage.ask("", stream=True), FIRST_WORD):
            return loop.time() - started_s
        await asyncio.sleep(POLL_BACK_S)
    return None
