"""The second vLLM of a promotion: where it runs, what it is started with, and its first request."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from policies.bundle import Bundle
from serving.checks import check_port
from serving.errors import LaunchError, ProcessFailed
from serving.options import VllmOptions, VllmSettings

PORT_WAIT_S = 20.0
"""After `kill -9` of a gateway its vLLM holds the port for some seconds more."""
PORT_INTERVAL_S = 0.25
MAX_ECHO_CHARACTERS = 500
"""Of an answer in an error message."""


def options_for(settings: VllmSettings, bundle: Bundle, folder: Path, port: int) -> VllmOptions:
    """What a bundle is started with. The configured window wins over the bundle's: this machine has memory for it."""
    given = settings.model_dump(exclude_unset=True, exclude={"second_port"})
    window = settings.context_window_tokens or bundle.context_window_tokens
    changes = {"model": str(folder / bundle.model), "port": port, "context_window_tokens": window}
    return VllmOptions.model_validate({**given, **changes})


def same_server(wanted: VllmOptions, running: VllmOptions) -> bool:
    """Whether a new process would differ in nothing but the folder that the model is read from."""
    return wanted.model_copy(update={"model": running.model}) == running


async def free_port(settings: VllmSettings, taken: int | None) -> int:
    """The port of the two that is not `taken` by the student that serves.

    Raises:
        LaunchError: somebody else has it, and keeps it.
    """
    candidates = [port for port in settings.ports if port != taken]
    deadline_s = time.monotonic() + PORT_WAIT_S
    while True:
        for port in candidates:
            try:
                check_port(settings.host, port)
                return port
            except LaunchError:
                if time.monotonic() > deadline_s and port == candidates[-1]:
                    raise
        await asyncio.sleep(PORT_INTERVAL_S)


class OneTokenRequest:
    """Loads what vLLM loads with its first request, and proves that an answer comes."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ

    async def __call__(self, options: VllmOptions) -> None:
        key = self._environ.get(options.api_key_env) if options.api_key_env else None
        headers = {"authorization": f"Bearer {key}"} if key else {}
        body = {"model": options.served_model_name, "prompt": "Hello", "max_tokens": 1}
        try:
            async with httpx.AsyncClient(headers=headers, timeout=options.startup_timeout_s, trust_env=False) as client:
                answer = await client.post(f"{options.base_url}/completions", json=body)
        except httpx.HTTPError as exc:
            raise ProcessFailed(f"its first request got no answer ({type(exc).__name__}: {exc})") from exc
        if answer.status_code != 200:
            raise ProcessFailed(
                f"its first request was answered with {answer.status_code}: {answer.text[:MAX_ECHO_CHARACTERS]}"
            )
