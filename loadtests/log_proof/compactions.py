"""Compactions beside the load, some of which are killed at a random moment."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec


class CompactionTally(msgspec.Struct):
    completed: int = 0
    killed: int = 0
    failed: list[str] = []
    """Messages of those that ended with an error."""


class Compactions:
    """Runs `locum log compact` again and again."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.tally = CompactionTally()
        self._folder = folder
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not a secret
        self._usual_s = 2.0
        """How long a whole one takes."""

    async def run(self) -> None:
        """Until cancelled; the one under way is killed then."""
        while True:
            await asyncio.sleep(self._random.uniform(0.2, 1.5))
            await self._once(killed=self.tally.completed > 0 and self._random.random() < 0.6)

    async def _once(self, *, killed: bool) -> None:
        program = str(Path(sys.executable).with_name("locum"))
        start_s = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            program,
            "log",
            "compact",
            str(self._folder),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._random.uniform(0.3, 1.1) * self._usual_s if killed else None):
                    _, messages = await process.communicate()
                    self._note(process.returncode, messages, time.monotonic() - start_s)
        finally:
            if process.returncode is None:
                self.tally.killed += 1
                process.kill()
                await process.wait()

    def _note(self, code: int | None, messages: bytes, took_s: float) -> None:
        if code == 0:
            self.tally.completed += 1
            self._usual_s = took_s
        else:
            self.tally.failed.append(f"exit code {code}: {messages.decode('utf-8', 'replace')[-500:]}")
