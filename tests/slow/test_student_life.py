"""The student's process on real vLLM: it guards its key, dies, is restarted, drains and stops."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from serving.models import PreparedModel
from serving.options import VllmOptions
from serving.student import StudentProcess
from serving.supervisor import Event, State
from tests.slow.conftest import OWN_CORE, STUDENT_WINDOW_TOKENS, core, free_port

pytestmark = pytest.mark.slow


async def test_student_guards_its_key_drains_a_stream_and_is_restarted_when_its_engine_dies(
    student_model: PreparedModel, serving_python: str, tmp_path: Path
) -> None:
    """One start for the whole life, since a start takes a minute."""
    options = VllmOptions(
        model=str(student_model.path),
        port=free_port(),
        python=serving_python,
        context_window_tokens=STUDENT_WINDOW_TOKENS,
        cpu_omp_threads_bind=str(core(OWN_CORE)),
        api_key_env="STUDENT_KEY",
        log_file=str(tmp_path / "vllm.log"),
    )
    events: list[Event] = []
    environ = {**os.environ, "STUDENT_KEY": "sesame"}
    async with StudentProcess(options, observer=events.append, environ=environ) as process:
        await process.ready()
        group = process.pid
        assert group is not None
        async with httpx.AsyncClient(base_url=options.base_url, timeout=60, trust_env=False) as client:
            assert (await client.get("/models")).status_code == 401
            key = {"authorization": "Bearer sesame"}
            assert (await client.get("/models", headers=key)).status_code == 200
        engines = members(group, "EngineCore")
        assert engines, "vLLM has renamed its engine process"
        os.kill(engines[0], signal.SIGKILL)
        async with asyncio.timeout(120):
            while process.state is not State.STARTING:  # noqa: ASYNC110 - observers are not awaited
                await asyncio.sleep(0.1)
        restart = next(event for event in events if event.state is State.RESTARTING)
        assert restart.log_tail
        assert not members(group)
        await process.ready()
        group = process.pid
        assert group is not None
        answer = asyncio.create_task(stream_until_done(options.base_url, key))
        await asyncio.sleep(2)
    assert (await answer)[-1] == "data: [DONE]"
    assert not members(group)
    assert "sesame" not in (tmp_path / "vllm.log").read_text()


async def stream_until_done(base_url: str, headers: dict[str, str]) -> list[str]:
    body = {"model": "student", "messages": [{"role": "user", "content": "Write a story."}], "max_tokens": 100}
    async with (
        httpx.AsyncClient(base_url=base_url, timeout=60, trust_env=False, headers=headers) as client,
        client.stream("POST", "/chat/completions", json={**body, "stream": True, "ignore_eos": True}) as response,
    ):
        return [line async for line in response.aiter_lines() if line]


def members(group: int, name: str = "") -> list[int]:
    """Living processes of a process group whose command line contains `name`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, pgrp = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if int(pgrp) == group and state != "Z" and name in command:
            found.append(int(folder.name))
    return found
