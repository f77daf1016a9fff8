"""The gateway of a run, and its admin API."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serving.demo.settings import free_port
from trainer.claim.operate import setup
from trainer.claim.servers import CommandFailed, served
from trainer.stage import Progress

ADMIN_TIMEOUT_S = 150.0


@dataclass(frozen=True)
class Gateway:
    """A running one."""

    url: str
    api_key: str
    admin_key: str
    traffic: Path

    async def admin(self, method: str, path: str, body: object = None) -> Any:
        """Raises: CommandFailed: the admin API refuses or does not answer."""
        headers = {"authorization": f"Bearer {self.admin_key}"}
        async with httpx.AsyncClient(timeout=ADMIN_TIMEOUT_S, headers=headers, trust_env=False) as client:
            try:
                response = await client.request(method, f"{self.url}/admin/{path}", json=body)
            except httpx.HTTPError as exc:
                raise CommandFailed(f"/admin/{path}: {type(exc).__name__}: {exc}") from exc
        if response.status_code != 200:
            raise CommandFailed(f"/admin/{path}: HTTP {response.status_code}: {response.text[:500]}")
        return response.json()


@asynccontextmanager
async def running_gateway(
    folder: Path, teacher_url: str, student: str, cascade: str, progress: Progress
) -> AsyncIterator[Gateway]:
    """`locum serve` with keys of its own; see `setup.gateway_toml`. Raises: ProcessFailed."""
    port, config = free_port(), folder / "locum.toml"
    text = setup.gateway_toml(folder, port, student=student, teacher_url=teacher_url, cascade=cascade)
    config.write_text(text, encoding="utf-8")
    api_key, admin_key = secrets.token_hex(16), secrets.token_hex(16)
    environ = {setup.KEYS_ENV: f"{setup.TENANT}={api_key}", setup.ADMIN_KEY_ENV: admin_key}
    async with served(config, port, progress, environ, api_key) as url:
        yield Gateway(url, api_key, admin_key, folder / "traffic")
