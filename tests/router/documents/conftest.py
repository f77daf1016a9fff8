"""A live policy without a gateway: a real store in memory, a real archive, and an engine that notes what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from router.config_file import parse
from router.documents.archive import Archive
from router.documents.document import DocumentRejected, PolicyDocument, Version, parse_document, seed_of
from router.documents.live import Draft, LivePolicy
from router.metrics import Metrics
from router.state.memory import MemoryStore

CONFIG = """
[student]
base_url = "http://127.0.0.1:35001/v1"
[teacher]
base_url = "http://127.0.0.1:35002/v1"
{rest}
"""


class FakeEngine:
    """Refuses documents whose default route is in `refuses`."""

    def __init__(self) -> None:
        self.installed: list[int] = []
        self.refuses: set[str] = set()

    async def check(self, document: PolicyDocument) -> None:
        if document.routing.default_route in self.refuses:
            raise DocumentRejected(["routing.policies.0.calibrator: missing.json cannot be read"])

    async def install(self, version: Version) -> None:
        await self.check(version.document)
        self.installed.append(version.version)


class Replica:
    """One process: its own engine and metrics; store and archive may be shared."""

    def __init__(self, store: MemoryStore, folder: Path, *, rest: str = "", shared: bool = False) -> None:
        self.engine = FakeEngine()
        self.metrics = Metrics()
        self.config = parse(CONFIG.format(rest=rest))
        self.live = LivePolicy(
            seed_of(self.config, now_s=0.0),
            engine=self.engine,
            store=store,
            shared=shared,
            archive=Archive(folder),
            metrics=self.metrics,
            clock=lambda: 1_000.0,
        )

    def document(self, **routing: Any) -> PolicyDocument:
        return parse_document({"routing": routing}, defaults=self.live.seed.document)

    async def put(self, *, expected: int, author: str = "ann", **routing: Any) -> Version:
        return await self.live.put(Draft(self.document(**routing), author, "api"), expected=expected)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        await self.live.start()
        task = asyncio.create_task(self.live.follow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def failures(self, cause: str) -> float:
        return self.metrics.policy_apply_failures.labels(cause)._value.get()


StartReplica = Callable[..., Replica]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(max_value_bytes=0)


@pytest.fixture
def replica(store: MemoryStore, tmp_path: Path) -> StartReplica:
    """Makes replicas; each has a folder of its own unless it is given one, and they share the store."""
    made: list[Replica] = []

    def make(*, folder: Path | None = None, own_store: MemoryStore | None = None, **options: Any) -> Replica:
        made.append(Replica(own_store or store, folder or tmp_path / f"replica-{len(made)}", **options))
        return made[-1]

    return make


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)
