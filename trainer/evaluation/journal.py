"""Answers on disk as they come: `kill -9` loses only what is in flight, and nobody is asked twice.

Each answer is written at once; fsync follows within SYNC_INTERVAL_S, the window that a power cut can lose.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from trainer.calls import all_or_first_error
from trainer.evaluation.endpoint import Answer, ModelClient

SYNC_INTERVAL_S = 0.2


@dataclass(frozen=True)
class Prompt:
    """What one case asks."""

    id: str
    messages: Sequence[Mapping[str, Any]]


class Journal:
    """One file of answers of one model: a line that says whose they are, then a line an answer.

    Answers of another model (the current student has changed since) or with a torn end are discarded.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.answers: dict[str, Answer] = {}
        head = msgspec.json.encode({"identity": identity}) + b"\n"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = 0
        if lines and lines[0] == head:
            kept = len(head)
            for line in lines[1:]:
                if not line.endswith(b"\n"):
                    break
                try:
                    answer = msgspec.json.decode(line, type=Answer)
                except msgspec.MsgspecError:
                    break
                self.answers[answer.id] = answer
                kept += len(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._synced_s = 0.0
        self._file.truncate(kept)
        self._file.seek(kept)
        if not kept:
            self._write(head)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def add(self, answer: Answer) -> None:
        self.answers[answer.id] = answer
        self._write(msgspec.json.encode(answer) + b"\n")

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        if time.monotonic() - self._synced_s >= SYNC_INTERVAL_S:
            os.fsync(self._file.fileno())
            self._synced_s = time.monotonic()


async def collect(
    client: ModelClient,
    prompts: Sequence[Prompt],
    journal: Journal,
    *,
    max_tokens: int,
    concurrency: int,
    progress: Callable[[int, int], None],
) -> dict[str, Answer]:
    """Ask what the journal does not have yet, `concurrency` at once.

    Raises: EndpointDown, StageError: the first of them ends all; what was answered is in the journal.
    """
    waiting = iter([prompt for prompt in prompts if prompt.id not in journal.answers])
    progress(sum(prompt.id in journal.answers for prompt in prompts), len(prompts))

    async def work() -> None:
        for prompt in waiting:
            journal.add(await client.ask(prompt.id, prompt.messages, max_tokens))
            progress(len(journal.answers), len(prompts))

    if any(prompt.id not in journal.answers for prompt in prompts):
        await client.probe()
    await all_or_first_error([work() for _ in range(concurrency)])
    return {prompt.id: journal.answers[prompt.id] for prompt in prompts}
