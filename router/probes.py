"""Asks the backends how they are: are they there, how large is their window, and how busy are their engines?"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Self

import httpx

from router.backends import Backend
from router.metrics import Metrics
from router.resilience.load import engine_load
from router.resilience.pool import Pool
from router.resilience.replica import Replica

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 2**21


class Prober:
    """Keeps `reachable` and `window_tokens` of the backends fresh, and what their engines say of their load.

    Routing does not wait for it: a backend that was not reachable a moment ago is left to its breaker.
    """

    def __init__(self, pools: Callable[[], Sequence[Pool]], metrics: Metrics, *, interval_s: float) -> None:
        """
        Args:
            pools: those that serve now; the student may be replaced.
        """
        self._pools = pools
        self._metrics = metrics
        self._interval_s = interval_s

    async def __aenter__(self) -> Self:
        self._clients: dict[ssl.SSLContext | None, httpx.AsyncClient] = {}
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients.values():
            await client.aclose()

    def _client_of(self, backend: Backend) -> httpx.AsyncClient:
        """One client for the whole life: making one takes the event loop 50 ms and more."""
        client = self._clients.get(backend.tls)
        if client is None:
            client = self._clients[backend.tls] = httpx.AsyncClient(
                verify=backend.tls or False,  # only http URLs come without a context
                headers={"accept-encoding": "identity"},
                timeout=PROBE_TIMEOUT_S,
                trust_env=False,
            )
        return client

    async def run(self) -> None:
        """Probe at every interval until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.once()

    async def once(self) -> None:
        """One round, so that a gateway knows its backends before its first request."""
        pools = self._pools()
        await asyncio.gather(*map(self.probe, pools))
        for route in ("student", "teacher"):
            reached = any(pool.reachable for pool in pools if pool.route == route)
            self._metrics.backend_up.labels(route).set(reached)

    async def probe(self, pool: Pool) -> None:
        """One question to each replica; never raises."""
        await asyncio.gather(*(self._probe(replica.backend) for replica in pool.replicas))

    async def watch_load(self, interval_s: float) -> None:
        """Read the engines' metrics at every interval until cancelled, where something depends on them."""
        while True:
            await asyncio.sleep(interval_s)
            watched = [replica for pool in self._pools() if pool.needs_engine_load for replica in pool.replicas]
            await asyncio.gather(*(self._read_load(replica, interval_s) for replica in watched))

    async def _probe(self, backend: Backend) -> None:
        if not backend.exists:
            self._metrics.replica_up.labels(backend.name).set(0)
            return
        was_reachable = backend.reachable
        try:
            status, body = await self._ask(backend, f"{backend.config.base_url}/models")
            backend.reachable = status < 500 and status not in (401, 403)
            backend.was_reachable |= backend.reachable
            if status == 200 and backend.config.context_window_tokens is None:
                window = window_in(json.loads(body), backend.config.model)
                backend.window_tokens = window or backend.window_tokens
        except Exception as exc:  # noqa: BLE001 - see below
            # Whatever an odd server does to the client, probing goes on, and so does the gateway.
            backend.reachable = False
            logger.debug("probe of the %s: %s", backend.name, type(exc).__name__)
        self._metrics.replica_up.labels(backend.name).set(backend.reachable)
        if backend.reachable != was_reachable:
            logger.info("the %s is %s", backend.name, "reachable" if backend.reachable else "not reachable")

    async def _read_load(self, replica: Replica, timeout_s: float) -> None:
        backend = replica.backend
        try:
            async with asyncio.timeout(timeout_s):
                url = backend.config.base_url.removesuffix("/v1") + "/metrics"
                status, body = await self._ask(backend, url)
            replica.observe(engine_load(body.decode("utf-8", "replace")) if status == 200 else None)
        except Exception as exc:  # noqa: BLE001 - as in `_probe`; what was read before grows old and is not used
            logger.debug("metrics of the %s: %s", backend.name, type(exc).__name__)

    async def _ask(self, backend: Backend, url: str) -> tuple[int, bytes]:
        """Status and body. Raises: httpx.HTTPError, ValueError (too large, or compressed: small can become huge)."""
        body = bytearray()
        async with self._client_of(backend).stream("GET", url, headers=backend.auth_headers) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise ValueError("the answer is compressed, which was not asked for")
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise ValueError("the answer is too large")
        return response.status_code, bytes(body)


def window_in(models: Any, model: str) -> int | None:
    """The window of a model in an answer of `/v1/models`: vLLM's `max_model_len`; None when it does not say."""
    entries = models.get("data") if isinstance(models, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("id") == model:
            window = entry.get("max_model_len")
            return window if isinstance(window, int) and window > 0 else None
    return None
