"""What the gateway does with admission, over a store that is there, slow to say yes, or away."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest

from policies.base import RouteDecision
from router.admission import Admission, Permit
from router.config import Config
from router.errors import LocumError, StateUnavailable
from router.metrics import Metrics
from router.state import Adjust, Claim, Document, Verdict
from router.state.memory import MemoryStore

BACKENDS = """
[student]
base_url = "http://127.0.0.1:9/v1"
[teacher]
base_url = "http://127.0.0.1:9/v1"
"""
WANTED = RouteDecision(route="teacher", reason="low_confidence", policy="retrieval_confidence")
FORCED = RouteDecision(route="teacher", reason="forced", policy="request")
INCAPABLE = RouteDecision(route="teacher", reason="exceeds_window", policy="long_context", student_capable=False)
NOON_S = datetime(2026, 5, 31, 12, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


class FlakyStore:
    """A store that can be taken away, and that counts how often it is asked."""

    def __init__(self, inner: MemoryStore) -> None:
        self.inner = inner
        self.is_away = False
        self.asked = 0
        self.failure: str | None = None
        self.renewed: list[str] = []
        self._missed: list[tuple[Sequence[Adjust], str]] = []

    def admit_at_once(self, claims: Sequence[Claim], *, holder: str) -> Verdict | None:
        return None

    def settle_at_once(self, adjustments: Sequence[Adjust], *, holder: str) -> bool:
        return False

    async def admit(self, claims: Sequence[Claim], *, holder: str) -> Verdict:
        self.asked += 1
        if self.is_away:
            raise StateUnavailable("away")
        return await self.inner.admit(claims, holder=holder)

    async def settle(self, adjustments: Sequence[Adjust], *, holder: str) -> None:
        self._missed.append((adjustments, holder))
        if not self.is_away:
            await self.come_back()

    async def come_back(self) -> None:
        self.is_away = False
        missed, self._missed = self._missed, []
        for adjustments, holder in missed:
            await self.inner.settle(adjustments, holder=holder)

    async def renew(self, holders: Sequence[str]) -> None:
        self.renewed += holders
        await self.inner.renew(holders)

    async def get(self, key: str) -> bytes | None:
        raise NotImplementedError

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        raise NotImplementedError

    async def read_document(self, name: str) -> Document | None:
        raise NotImplementedError

    async def write_document(self, name: str, content: bytes, *, expected_version: int | None) -> Document:
        raise NotImplementedError

    async def document_history(self, name: str, *, limit: int = 1) -> list[Document]:
        raise NotImplementedError

    def watch(self, name: str) -> AsyncIterator[Document]:
        raise NotImplementedError


class Gateway:
    """What the gateway does with admission, in short."""

    def __init__(self, text: str) -> None:
        self.clock = Clock()
        self.store = FlakyStore(MemoryStore(max_value_bytes=0, clock=self.clock))
        self.metrics = Metrics()
        self.admission = Admission(
            Config.model_validate(tomllib.loads(BACKENDS + text)),
            store=self.store,
            metrics=self.metrics,
            environ={"LOCUM_API_KEYS": "acme=key-of-acme"},
        )
        self._count = 0

    async def admit(
        self, tenant: str = "acme", *, tokens: int = 1, usd: float | None = None, within_s: float = 60.0
    ) -> Permit:
        self._count += 1
        return await self.admission.admit(
            self.admission.tenants.of(tenant),
            holder=f"request-{self._count}",
            estimated_tokens=tokens,
            estimated_cost_usd=usd,
            deadline_s=asyncio.get_running_loop().time() + within_s,
        )

    async def refused(self, tenant: str = "acme", **request: float) -> LocumError:
        with pytest.raises(LocumError) as caught:
            await self.admit(tenant, **request)  # type: ignore[arg-type]
        error = caught.value
        assert error.retry_after_s is not None
        assert error.retry_after_s >= 1
        return error

    def refusals(self, cause: str) -> float:
        return self.metrics.registry.get_sample_value("router_admission_refusals_total", {"cause": cause}) or 0.0


def header(permit: Permit | LocumError, name: str) -> str:
    return dict(permit.headers)[name.encode()].decode()


async def done(permit: Permit, *, tokens: int | None = 0, usd: float | None = 0.0) -> None:
    await permit.settle(tokens=tokens, cost_usd=usd)
