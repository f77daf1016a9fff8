"""What the gateway does while the shared state is out of reach: as `[state.on_failure]` says, and never silently."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Self

from router.config.state import OnFailureConfig
from router.errors import StateUnavailable
from router.metrics import Metrics
from router.state.base import HISTORY_LENGTH, Adjust, Budget, Claim, Document, Rate, Verdict
from router.state.linked import LinkedStore
from router.state.memory import MemoryStore
from router.state.watching import watch

Feature = Literal["limits", "budgets", "concurrency", "cache", "documents"]
"""What needs the store; labels `router_state_errors_total`."""


class FailoverStore:
    """`Store` that goes on in this process's memory where that is configured. An async context manager.

    What was spent meanwhile is charged to the shared budgets when they are back. Rates are not: their buckets would
    have been refilled.
    """

    def __init__(self, shared: LinkedStore, on_failure: OnFailureConfig, metrics: Metrics) -> None:
        self._shared = shared
        self._local = MemoryStore(max_value_bytes=0)
        self._on_failure = on_failure
        self._metrics = metrics

    async def __aenter__(self) -> Self:
        await self._shared.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._shared.__aexit__(*exc)

    @property
    def failure(self) -> str | None:
        return self._shared.failure

    def admit_at_once(self, claims: Sequence[Claim], *, holder: str) -> Verdict | None:
        return None

    def settle_at_once(self, adjustments: Sequence[Adjust], *, holder: str) -> bool:
        return False

    async def admit(self, claims: Sequence[Claim], *, holder: str) -> Verdict:
        """Raises: StateUnavailable, when one of the claims must not be decided without the store."""
        try:
            return await self._shared.admit(claims, holder=holder)
        except StateUnavailable:
            features = {feature_of(claim) for claim in claims}
            for feature in features:
                self._count(feature)
            if any(getattr(self._on_failure, feature) == "closed" for feature in features):
                raise
        return await self._local.admit(claims, holder=holder)

    async def settle(self, adjustments: Sequence[Adjust], *, holder: str) -> None:
        if self._local.holds(holder):
            await self._local.settle(adjustments, holder=holder)
            adjustments = [adjust for adjust in adjustments if not isinstance(adjust.claim, Rate)]
        await self._shared.settle(adjustments, holder=holder)

    async def renew(self, holders: Sequence[str]) -> None:
        """Does not raise: a slot outlives a few renewals that fail."""
        await self._local.renew(holders)
        try:
            await self._shared.renew(holders)
        except StateUnavailable:
            self._count("concurrency")

    async def get(self, key: str) -> bytes | None:
        """Nothing while the store is away."""
        try:
            return await self._shared.get(key)
        except StateUnavailable:
            self._count("cache")
            return None

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Has no effect while the store is away."""
        try:
            await self._shared.put(key, value, ttl_s=ttl_s)
        except StateUnavailable:
            self._count("cache")

    async def read_document(self, name: str) -> Document | None:
        try:
            return await self._shared.read_document(name)
        except StateUnavailable:
            self._count("documents")
            raise

    async def write_document(self, name: str, content: bytes, *, expected_version: int | None) -> Document:
        try:
            return await self._shared.write_document(name, content, expected_version=expected_version)
        except StateUnavailable:
            self._count("documents")
            raise

    async def document_history(self, name: str, *, limit: int = HISTORY_LENGTH) -> list[Document]:
        try:
            return await self._shared.document_history(name, limit=limit)
        except StateUnavailable:
            self._count("documents")
            raise

    def watch(self, name: str) -> AsyncIterator[Document]:
        return watch(self.read_document, name)

    def _count(self, feature: Feature) -> None:
        self._metrics.state_errors.labels(feature).inc()


def feature_of(claim: Claim) -> Literal["limits", "budgets", "concurrency"]:
    if isinstance(claim, Rate):
        return "limits"
    return "budgets" if isinstance(claim, Budget) else "concurrency"
