"""What tests of real child processes ask of them, and how they wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.serving.conftest import Fake


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the child's state has no event
            await asyncio.sleep(0.01)


async def post(fake: Fake, path: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            await client.post(f"{fake.url}{path}")
        except httpx.HTTPError:
            assert path == "/crash"
