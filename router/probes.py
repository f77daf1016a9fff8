"""Asks the backends for `/v1/models` now and then: are they there, and how large is the student's window?"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Self

import httpx

from router.backends import Backend
from router.metrics import Metrics

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 2.0


class Prober:
    """Keeps `reachable` and `window_tokens` of the backends fresh. Routing does not depend on it."""

    def __init__(self, backends: list[Backend], metrics: Metrics, *, interval_s: float) -> None:
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
        await asyncio.gather(*map(self._probe, self._backends))

    async def _probe(self, backend: Backend) -> None:
        """One question to one backend; never raises."""
        was_reachable = backend.reachable
        try:
            response = await self._client.get(f"{backend.config.base_url}/models", headers=backend.auth_headers)
            backend.reachable = response.status_code < 500 and response.status_code not in (401, 403)
            if response.status_code == 200 and backend.config.context_window_tokens is None:
                backend.window_tokens = window_in(response.json(), backend.config.model) or backend.window_tokens
        except (httpx.HTTPError, ValueError) as exc:
            backend.reachable = False
            logger.debug("probe of the %s: %s", backend.route, type(exc).__name__)
        self._metrics.backend_up.labels(backend.route).set(backend.reachable)
        if backend.reachable != was_reachable:
            logger.info("the %s is %s", backend.route, "reachable" if backend.reachable else "not reachable")


def window_in(models: Any, model: str) -> int | None:
    """The window of a model in an answer of `/v1/models`: vLLM's `max_model_len`; None when it does not say."""
    entries = models.get("data") if isinstance(models, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("id") == model:
            window = entry.get("max_model_len")
            return window if isinstance(window, int) and window > 0 else None
    return None
