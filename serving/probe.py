"""Asks an OpenAI-compatible server how it is: alive, which models, which window."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import httpx


@dataclass(frozen=True)
class ServedModel:
    """One entry of `/v1/models`."""

    name: str
    window_tokens: int | None


@dataclass(frozen=True)
class Report:
    """The answer of one probe. `problem` is None when it is healthy and serves the model that was asked for."""

    healthy: bool
    models: tuple[ServedModel, ...] = ()
    problem: str | None = None

    @property
    def ready(self) -> bool:
        return self.healthy and self.problem is None


class Probe(Protocol):
    """Tests pass their own."""

    def __call__(self, timeout_s: float) -> Coroutine[object, object, Report]:
        """Never raises for what the server does."""
        ...


class HttpProbe:
    """`/health` and `/v1/models` of vLLM, of llama.cpp's server, or of any URL (where `/health` may be missing)."""

    def __init__(self, base_url: str, *, model: str | None, api_key: str | None = None) -> None:
        """`base_url` ends in `/v1`; `model` is the name that must be listed, or None for any."""
        self._base_url = base_url.rstrip("/")
        self._model = model
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}

    async def __call__(self, timeout_s: float) -> Report:
        try:
            # One client a probe: a kept-alive connection would say nothing about whether new ones are accepted.
            # Proxies of the environment are for the outside; the student is on loopback or a private network.
            async with httpx.AsyncClient(timeout=timeout_s, headers=self._headers, trust_env=False) as client:
                health = await client.get(self._health_url())
                if health.status_code >= 500:
                    return Report(healthy=False, problem=f"/health answers {health.status_code}")
                listing = await client.get(f"{self._base_url}/models")
        except httpx.TimeoutException:
            return Report(healthy=False, problem=f"no answer within {timeout_s:g} s")
        except httpx.HTTPError as exc:
            return Report(healthy=False, problem=f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__)
        return self._judge(listing)

    def _judge(self, listing: httpx.Response) -> Report:
        if listing.status_code in (401, 403):
            return Report(healthy=True, problem="the server refuses the API key; check api_key_env")
        if listing.status_code != 200:
            return Report(healthy=listing.status_code < 500, problem=f"/v1/models answers {listing.status_code}")
        try:
            models = tuple(
                ServedModel(name=str(entry["id"]), window_tokens=_window(entry)) for entry in listing.json()["data"]
            )
        except (ValueError, KeyError, TypeError):
            return Report(healthy=True, problem="/v1/models does not answer in OpenAI's form; is base_url right?")
        names = [model.name for model in models]
        if self._model is not None and self._model not in names:
            listed = ", ".join(names) or "none"
            return Report(healthy=True, models=models, problem=f"it does not serve {self._model!r} (served: {listed})")
        return Report(healthy=True, models=models)

    def _health_url(self) -> str:
        parts = urlsplit(self._base_url)
        return f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('/v1')}/health"


def _window(entry: dict[str, object]) -> int | None:
    """vLLM says `max_model_len`, llama.cpp `meta.n_ctx` (per slot)."""
    meta = entry.get("meta")
    value = entry.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return value if isinstance(value, int) else None
