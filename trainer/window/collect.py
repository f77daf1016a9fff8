"""Streams answers of a student whole, with the logprob and the time of every token: the raw material of all windows."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx
import msgspec

from policies.drafts.logprobs import TokenLogprob, is_stop_token
from trainer.window.tasks import Task, is_right


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One answer."""

    task_id: str
    kind: str
    right: bool
    finish_reason: str
    text: str
    logprobs: tuple[float, ...]
    """Of every token, nats; the stop token included where the backend lists it."""
    stop_token: bool
    """Whether the last one is the stop token's, which is part of no mean."""
    times_s: tuple[float, ...]
    """When each token came, since the first one."""
    ttft_s: float
    """From the request to the first token."""
    concurrency: int


async def collect(
    tasks: list[Task], base_url: str, model: str, file: Path, *, concurrency: int, max_tokens: int
) -> list[Row]:
    """Ask for what the file does not hold yet, append it, and return all.

    Raises: httpx.HTTPError; ValueError: the backend's logprobs are none.
    """
    rows = read(file)
    known = {(row.task_id, row.concurrency) for row in rows}
    waiting = [task for task in tasks if (task.task_id, concurrency) not in known]
    places = asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(base_url=base_url, timeout=120.0) as client:

        async def one(task: Task) -> None:
            async with places:
                row = await _answer(client, model, task, concurrency, max_tokens)
            rows.append(row)
            with file.open("ab") as sink:
                sink.write(msgspec.json.encode(row) + b"\n")

        await asyncio.gather(*map(one, waiting))  # the first error as it is, where a TaskGroup would wrap it
    return rows


def read(file: Path) -> list[Row]:
    """What a run has left so far; a torn last line is asked for again."""
    rows = []
    for line in file.read_bytes().splitlines() if file.exists() else ():
        try:
            rows.append(msgspec.json.decode(line, type=Row))
        except msgspec.DecodeError:
            continue
    return rows


async def _answer(client: httpx.AsyncClient, model: str, task: Task, concurrency: int, max_tokens: int) -> Row:
    body = {
        "model": model, "messages": task.messages, "stream": True, "logprobs": True, "temperature": 0.0,
        "max_tokens": max_tokens,
    }  # fmt: skip
    started_s = time.monotonic()
    tokens: list[TokenLogprob] = []
    times_s: list[float] = []
    text, finish_reason = "", ""
    async with client.stream("POST", "chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            choice = json.loads(line[6:])["choices"][0]
            told = msgspec.convert((choice.get("logprobs") or {}).get("content") or [], list[TokenLogprob])
            tokens += told
            times_s += len(told) * [time.monotonic()]
            text += choice["delta"].get("content") or ""
            finish_reason = choice.get("finish_reason") or finish_reason
    first_s = times_s[0] if times_s else time.monotonic()
    return Row(
        task_id=task.task_id,
        kind=task.kind,
        right=finish_reason == "stop" and is_right(task, text),
        finish_reason=finish_reason,
        text=text,
        logprobs=tuple(round(token.logprob, 5) for token in tokens),
        stop_token=bool(tokens) and is_stop_token(tokens[-1], text, finish_reason or None),
        times_s=tuple(round(value - first_s, 5) for value in times_s),
        ttft_s=first_s - started_s,
        concurrency=concurrency,
    )
