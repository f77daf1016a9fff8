"""Asks the backends for `/v1/models` now and then: are they there, and how large is the student's window?"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, Self

import httpx

from router.backends import Backend
from router.metrics import Metrics

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 2**20


class Prober:
    """Keeps `reachable` and `window_tokens` of the backends fresh. Routing does not depend on it."""

    def __init__(self, backends: Callable[[], list[Backend]], metrics: Metrics, *, interval_s: float) -> None:
        """
        Args:
            backends: those that serve now; the student may be replaced.
        """
        self._backends = backends
        self._metrics = metrics
        self._interval_s = interval_s

    async def __aenter__(self) -> Self:
        """One client for the whole life: making one takes the event loop 50 ms and more."""
        self._client = httpx.AsyncClient(timeout=PROBE_TIMEOUT_S, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def run(self) -> None:
        """Probe at every interval until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.once()

    async def once(self) -> None:
        """One round, so that a gateway knows its backends before its first request."""
        await asyncio.gather(*map(self.probe, self._backends()))

    async def probe(self, backend: Backend) -> None:
        """One question to one backend; never raises."""
        if not backend.exists:
            self._metrics.backend_up.labels(backend.route).set(0)
            return
        was_reachable = backend.reachable
        try:
            status, body = await self._ask(f"{backend.config.base_url}/models", backend.auth_headers)
            backend.reachable = status < 500 and status not in (401, 403)
            if status == 200 and backend.config.context_window_tokens is None:
                window = window_in(json.loads(body), backend.config.model)
                backend.window_tokens = window or backend.window_tokens
        except Exception as exc:  # noqa: BLE001 - see below
            # Whatever an odd server does to the client, probing goes on, and so does the gateway.
            backend.reachable = False
            logger.debug("probe of the %s: %s", backend.route, type(exc).__name__)
        self._metrics.backend_up.labels(backend.route).set(backend.reachable)
        if backend.reachable != was_reachable:
            logger.info("the %s is %s", backend.route, "reachable" if backend.reachable else "not reachable")

    async def _ask(self, url: str, headers: dict[str, str]) -> tuple[int, bytes]:
        """Status and body. Raises: httpx.HTTPError, ValueError (too large)."""
        body = b""
        async with self._client.stream("GET", url, headers=headers) as response:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise ValueError("the list of models is too large")
        return response.status_code, body


def window_in(models: Any, model: str) -> int | None:
    """The window of a model in an answer of `/v1/models`: vLLM's `max_model_len`; None when it does not say."""
    entries = models.get("data") if isinstance(models, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("id") == model:
            window = entry.get("max_model_len")
            return window if isinstance(window, int) and window > 0 else None
    return None
