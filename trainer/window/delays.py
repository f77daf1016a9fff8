"""The delay that a client feels: from a student that writes alone and beside others, and through a gateway.

Kept apart from the answers, in a folder of its own: what windows see does not depend on how busy the machine is, what
they cost does. To measure on a quiet machine again, remove the folder.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec
import numpy as np

from serving.demo.settings import free_port
from trainer.claim.servers import served
from trainer.window.collect import Row, collect, read
from trainer.window.tasks import Task

FOLDER = "delays"
ALONE = 12
"""Tasks that are asked one at a time."""
TOGETHER = 72
"""Tasks that are asked many at a time."""
SIZES = (4, 8, 16, 32, 64, 96, 128)
WINDOWS = (0, 8, 16, 32, 64)
"""Through the gateway. 0: streams are passed on as they come."""
PROC_STAT = Path("/proc/stat")
LOOK_S = 3.0


class Delay(msgspec.Struct, frozen=True, kw_only=True):
    """What a window adds to the time to the first token, in seconds."""

    tokens: int
    concurrency: int
    p50_s: float
    p90_s: float


class Delays(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    added: tuple[Delay, ...] = ()
    gateway_ttft_s: dict[int, list[float]] = {}
    """Window → time to the first token of every stream, one at a time."""
    busy: float | None = None
    """Share of the machine's cores that other processes used when it began, at most; None: unknown."""


class _Gateway(msgspec.Struct):
    ttft_s: dict[int, list[float]] = {}
    busy: float | None = None


async def measure(tasks: list[Task], url: str, model: str, work: Path, *, concurrency: int, max_tokens: int) -> None:
    """What the folder does not hold yet. Raises: httpx.HTTPError, ServingError."""
    folder = work / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    kept = _read(folder)
    if not (folder / "answers.jsonl").exists():
        kept.busy = await asyncio.to_thread(_busy)
        _write(folder, kept)
    for number, at_once in ((ALONE, 1), (TOGETHER, concurrency)):
        await collect(tasks[:number], url, model, folder / "answers.jsonl", concurrency=at_once, max_tokens=max_tokens)
    for tokens in WINDOWS:
        if len(kept.ttft_s.get(tokens, ())) >= ALONE:
            continue
        port = free_port()
        config = folder / "locum.toml"
        config.write_text(_config(port, url, model, tokens), encoding="utf-8")
        async with served(config, port, lambda done, total, message: None) as gateway:
            kept.ttft_s[tokens] = [await _ttft_s(gateway, task, max_tokens) for task in tasks[:ALONE]]
        _write(folder, kept)


def delays(work: Path) -> Delays:
    """What was measured so far."""
    folder = work / FOLDER
    kept = _read(folder)
    return Delays(added=tuple(_added(read(folder / "answers.jsonl"))), gateway_ttft_s=kept.ttft_s, busy=kept.busy)


def _added(rows: Sequence[Row]) -> list[Delay]:
    found = []
    for concurrency in sorted({row.concurrency for row in rows}):
        own = [row for row in rows if row.concurrency == concurrency and row.times_s]
        for tokens in SIZES:
            waits = [row.times_s[min(tokens, len(row.times_s)) - 1] for row in own]
            p50, p90 = np.quantile(waits, [0.5, 0.9])
            found.append(Delay(tokens=tokens, concurrency=concurrency, p50_s=float(p50), p90_s=float(p90)))
    return found


def _read(folder: Path) -> _Gateway:
    file = folder / "gateway.json"
    return msgspec.json.decode(file.read_bytes(), type=_Gateway) if file.exists() else _Gateway()


def _write(folder: Path, kept: _Gateway) -> None:
    (folder / "gateway.json").write_bytes(msgspec.json.encode(kept))


def _busy() -> float | None:
    """None where the system does not tell."""
    if not PROC_STAT.exists():
        return None
    before = PROC_STAT.read_text()
    time.sleep(LOOK_S)
    return busy_share(before, PROC_STAT.read_text())


def busy_share(before: str, after: str) -> float | None:
    """Share of the cores that all processes used between two readings of /proc/stat. An idle student uses none.

    Source: proc(5): ticks of all cores in user, nice, system, idle, iowait, irq, softirq, steal.
    """
    first, second = ([int(each) for each in text.split("\n", 1)[0].split()[1:9]] for text in (before, after))
    ticks = [late - early for early, late in zip(first, second, strict=True)]
    return 1 - (ticks[3] + ticks[4]) / sum(ticks) if sum(ticks) else None


async def _ttft_s(gateway_url: str, task: Task, max_tokens: int) -> float:
    """Of one stream, which is left at its first token."""
    body = {"model": "auto", "messages": task.messages, "stream": True, "temperature": 0.0, "max_tokens": max_tokens}
    async with httpx.AsyncClient(timeout=120.0) as client:
        started_s = time.monotonic()
        async with client.stream("POST", f"{gateway_url}/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    return time.monotonic() - started_s
    raise httpx.RemoteProtocolError("the stream had no token")


def _config(port: int, student_url: str, model: str, tokens: int) -> str:
    """A cascade without a calibrator: it reviews every stream and lets it through."""
    student = json.dumps(student_url.rstrip("/"))
    return f"""[server]
port = {port}

[student]
base_url = {student}
model = {json.dumps(model)}

[teacher]
base_url = {student}
model = {json.dumps(model)}

[[routing.policies]]
type = "cascade"
commit_window_tokens = {tokens}
commit_window_s = 60.0

[log]
dir = ""
"""
