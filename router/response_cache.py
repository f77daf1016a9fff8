"""The exact-match response cache: the same plain request of the same tenant is answered from the shared state.

Off by default. An answer is kept, and one that was kept is given, only where nobody can tell the difference:

- the request asks for a repeatable answer (`temperature` 0 or a `seed`) in one piece, and wants one choice;
- the client lets its text be kept: not with `store: false`, `router.train` below `full`, or `cache-control: no-store`;
- it is ordinary traffic: no evaluation, shadow, judge or canary call;
- the answer is a complete one of status 200 and of full declared quality: no degraded one is kept.

The key covers the tenant, the endpoint, the request without router input, the route that the policies chose for this
very request, the policies' version and the student: evidence, thresholds and models that change never meet old answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from policies.base import Route
from policies.record import Usage
from router.backends import Answer
from router.chat import ChatRequest
from router.config import Config
from router.dialects.translated import TranslatedRequest
from router.errors import StateUnavailable
from router.http_client import Headers
from router.metrics import Metrics
from router.state import Store

MAX_ANSWER_BYTES = 2**20
"""A larger answer is not kept: it would hold up everything else on its way to the store."""
COMPLETE = frozenset({"stop", "length", "tool_calls", "function_call"})
"""Finish reasons of answers that may be given again."""


class CachedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """An answer as its client got it, and what is reckoned by."""

    route: Route
    """Who wrote it."""
    content_type: str
    body: bytes
    usage: Usage | None
    finish_reason: str | None


class ResponseCache:
    """Finds and keeps answers. While the store is away there are none, and nothing fails."""

    def __init__(self, config: Config, store: Store, metrics: Metrics) -> None:
        self._ttl_s = config.cache.ttl_s
        self._models = [(each.base_url, each.model) for each in (config.student, config.teacher)]
        self._store = store
        self._lookups = metrics.cache_lookups
        self._decoder = msgspec.msgpack.Decoder(CachedAnswer)

    def key_of(
        self, request: ChatRequest, headers: Headers, *, tenant: str, path: str, route: Route, version: str
    ) -> str | None:
        """What an answer to this request is kept under; None when it must not be.

        Args:
            route: the policies' choice.
            version: of the policies and the student.
        """
        asked = request.asked.values if isinstance(request, TranslatedRequest) else request.body.values
        if request.stream or request.choices != 1 or not _is_repeatable(request.body.values):
            return None
        if (request.directives.purpose or "traffic") != "traffic" or "no-store" in _cache_control(headers):
            return None
        if request.capture("full") != "full" or asked.get("store") is False:
            return None
        plain = {name: value for name, value in asked.items() if name != "router"}
        beta = [value.decode("latin-1") for name, value in headers if name == b"openai-beta"]  # reaches the backend
        parts = [self._models, tenant, path, route, version, beta, plain]
        return "answer/" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    async def find(self, key: str, headers: Headers) -> CachedAnswer | None:
        """The answer that was kept under this key; none for a client that wants a fresh one (`no-cache`)."""
        found = None
        if "no-cache" not in _cache_control(headers):
            found = await self._read(key)
        self._lookups.labels("miss" if found is None else "hit").inc()
        return found

    async def keep(
        self, key: str, *, route: Route, answer: Answer, body: bytes, usage: Usage | None, finish_reason: str | None
    ) -> None:
        """Keep an answer, if it is one that may be given again."""
        if answer.status != 200 or finish_reason not in COMPLETE or len(body) > MAX_ANSWER_BYTES:
            return
        kept = CachedAnswer(route, answer.content_type.decode("latin-1"), body, usage, finish_reason)
        try:
            await self._store.put(key, msgspec.msgpack.encode(kept), ttl_s=self._ttl_s)
        except StateUnavailable:
            return  # counted by the store

    async def _read(self, key: str) -> CachedAnswer | None:
        try:
            value = await self._store.get(key)
            return None if value is None else self._decoder.decode(value)
        except (StateUnavailable, msgspec.MsgspecError):
            return None  # away; or kept by another version of the gateway


def _is_repeatable(values: Mapping[str, Any]) -> bool:
    """Whether the client asks for the same answer to the same request."""
    return values.get("temperature") in (0, 0.0) or isinstance(values.get("seed"), int)


def _cache_control(headers: Headers) -> str:
    return ",".join(value.decode("latin-1").lower() for name, value in headers if name == b"cache-control")
