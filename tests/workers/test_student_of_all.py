"""The parent's student is every worker's, also of a worker that starts later; what one refuses, none keeps."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from loadtests.fake_backend import FakeBackend
from policies.bundle import BUNDLE_SCHEMA_VERSION, Bundle
from router import server
from router.app import Install
from router.config import ConfigError
from router.config_file import load
from router.workers.parent import Workers

pytestmark = pytest.mark.system

CONFIG = """
[server]
port = 0
workers = 2
probe_interval_s = 60.0
idle_grace_s = 0.1
[student]
registry = "{folder}/students"
[student.vllm]
port = 39790
[teacher]
base_url = "http://127.0.0.1:9/v1"
[log]
dir = ""
[[routing.policies]]
type = "cascade"
"""


def bundle_in(folder: Path, name: str, **changes: str) -> Bundle:
    (folder / "students" / name / "model").mkdir(parents=True)
    return Bundle(
        schema=BUNDLE_SCHEMA_VERSION,
        bundle_id=name,
        name=name,
        created_s=1.0,
        model_sha256="0" * 64,
        model_bytes=1,
        **changes,  # type: ignore[arg-type]
    )


class Running:
    """`Workers` in this event loop, with a test in place of the registry's switch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "locum.toml"
        path.write_text(CONFIG.format(folder=folder))
        config = load(path)
        self._listener = server.bind(config.server)
        self.workers = Workers(config, path, self._background)
        self._install: Install | None = None
        self.url = ""

    @asynccontextmanager
    async def _background(self, install: Install) -> AsyncIterator[None]:
        self._install = install
        yield

    async def __aenter__(self) -> Running:
        started = asyncio.Event()

        def announce(url: str) -> None:
            self.url = url
            started.set()

        self._task = asyncio.create_task(self.workers.run(self._listener, announce))
        await started.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # the loop's handler takes it
        assert await self._task

    async def install(self, bundle: Bundle, url: str) -> None:
        assert self._install is not None
        await self._install(bundle, self.folder / "students" / bundle.bundle_id, url)

    async def students(self) -> set[str]:
        """Who answers, over so many connections that both workers take some."""
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask()) for _ in range(12)]
        return {each.result() for each in asked}

    async def _ask(self) -> str:
        body = {"model": "student", "messages": [{"role": "user", "content": "hi"}]}
        async with httpx.AsyncClient(timeout=30) as client:
            response = await client.post(f"{self.url}/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        answer = response.json()["choices"][0]["message"]["content"][:5]
        return f"{response.headers['x-router-student']} {answer}"


async def test_students_are_installed_in_every_worker(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        alpha = await stack.enter_async_context(FakeBackend(models=("student",), signature="ALPHA"))
        gamma = await stack.enter_async_context(FakeBackend(models=("student",), signature="GAMMA"))
        running = await stack.enter_async_context(Running(tmp_path))
        await running.install(bundle_in(tmp_path, "first"), alpha.base_url)
        assert await running.students() == {"first ALPHA"}
        await running.install(bundle_in(tmp_path, "second"), gamma.base_url)
        assert await running.students() == {"second GAMMA"}

        unusable = bundle_in(tmp_path, "third", calibrator="missing.json")
        with pytest.raises(ConfigError, match="third"):
            await running.install(unusable, alpha.base_url)
        assert await running.students() == {"second GAMMA"}

        await running.workers.replace_all()
        assert await running.students() == {"second GAMMA"}
