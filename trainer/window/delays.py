"""The delay that a client feels: the time to the first token through a gateway with windows of several sizes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import msgspec

from serving.demo.settings import free_port
from trainer.claim.servers import served
from trainer.window.tasks import Task

WINDOWS = (0, 8, 16, 32, 64)
"""0: streams are passed on as they come."""
FILE = "ttft.json"


async def through_gateway(tasks: list[Task], student_url: str, model: str, work: Path) -> None:
    """Measure the windows that the file does not hold yet. Each stream is left at its first token."""
    known = read_ttft(work)
    for tokens in WINDOWS:
        if len(known.get(str(tokens), ())) >= len(tasks):
            continue
        port = free_port()
        config = work / "locum.toml"
        config.write_text(_config(port, student_url, model, tokens), encoding="utf-8")
        async with served(config, port, lambda done, total, message: None) as url:
            known[str(tokens)] = [await _ttft_s(url, task) for task in tasks]
        (work / FILE).write_bytes(msgspec.json.encode(known))


def read_ttft(work: Path) -> dict[str, list[float]]:
    """Window → seconds of every stream."""
    file = work / FILE
    return msgspec.json.decode(file.read_bytes(), type=dict[str, list[float]]) if file.exists() else {}


async def _ttft_s(gateway_url: str, task: Task) -> float:
    body = {"model": "auto", "messages": task.messages, "stream": True, "temperature": 0.0, "max_tokens": 170}
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
