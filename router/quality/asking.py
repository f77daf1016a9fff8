"""Puts an answered request to the other model: the same body, never a stream, on connections of its own.

Live traffic comes first. Nothing here takes a connection, a retry or a place in a breaker's count from it; and a model
that is in trouble or busy is not asked.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import NamedTuple, Self

from policies.base import Route
from policies.record import DecisionRecord, ShadowStatus, Usage
from router.additions import NOTHING, Additions
from router.answers import Meaning
from router.apis import CHAT
from router.backends import Backend
from router.chat import ChatRequest
from router.config import BackendConfig
from router.config.quality import ShadowConfig
from router.dialects.base import Outgoing
from router.errors import BackendError
from router.generations import Generation, Generations
from router.plain import fetch
from router.pricing import expected_usage
from router.quality.budget import DailyBudget
from router.quality.judge import mark
from router.resilience.pool import Pool
from router.resilience.replica import Replica


class ShadowRequest(ChatRequest):
    """A request that was answered, as it is put to the other model."""

    def __init__(self, answered: ChatRequest) -> None:
        super().__init__(answered.body, answered.directives)
        self.stream = False

    def outgoing(self, backend: BackendConfig, added: Additions = NOTHING) -> Outgoing:
        """As a chat, whatever dialect it came in."""
        values = self.body.members
        replace = {"model": json.dumps(backend.model)} | ({"stream": "false"} if "stream" in values else {})
        add: dict[str, str] = {}
        for option, value in added.options().items():
            (replace if option in values else add)[option] = value
        return Outgoing(
            CHAT, self.body.splice(replace=replace, remove=("router", "stream_options"), add=add), hides_usage=True
        )


class Asked(NamedTuple):
    """How it went."""

    status: ShadowStatus
    student: str
    """Bundle id of the student that was asked, or that would have been."""
    meaning: Meaning | None = None
    cost_usd: float | None = None
    latency_s: float | None = None


class OtherModels:
    """The models of live traffic, asked beside it. `async with`: connections live as long as the block."""

    def __init__(
        self,
        config: ShadowConfig,
        *,
        teacher: Pool,
        generations: Generations,
        budget: DailyBudget,
        max_response_bytes: int,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """
        Args:
            teacher: the first one.
            generations: know the student that serves now.
        """
        self._config = config
        self._teacher = teacher
        self._generations = generations
        self._budget = budget
        self._max_response_bytes = max_response_bytes
        self._environ = environ
        self._twins: dict[Backend, Backend] = {}
        """The same endpoints with connections of their own."""
        self._calls: dict[Backend, int] = {}

    async def __aenter__(self) -> Self:
        for replica in self._teacher.replicas:
            await self._twin(replica.backend)  # its TLS reads files
        return self

    async def __aexit__(self, *_: object) -> None:
        for twin in self._twins.values():
            await twin.__aexit__(None, None, None)

    async def ask(self, record: DecisionRecord, request: ChatRequest, route: Route) -> Asked:
        """The other model's answer, or why there is none. Cancelled, it may have cost something.

        Args:
            record: of the request, as it was answered.
        """
        generation = self._generations.current
        generation.enter()  # a student that is being replaced waits for this as for any other request
        try:
            return await self._ask(record, request, generation, route)
        finally:
            generation.leave()

    async def _ask(self, record: DecisionRecord, request: ChatRequest, generation: Generation, route: Route) -> Asked:
        pool = generation.student if route == "student" else self._teacher
        usable = [replica for replica in pool.replicas if replica.breaker.allows()]
        if not pool.exists or not usable:
            return Asked("skipped_unavailable", generation.bundle_id)
        obstacle = self._obstacle(pool, record) if route == "student" else None
        if obstacle is not None:
            return Asked(obstacle, generation.bundle_id)
        features = record.features
        estimated_usd = pool.price.cost_usd(expected_usage(features, 1)) if pool.price and features else 0.0
        if not await self._budget.reserve(record.decision_id, estimated_usd):
            return Asked("skipped_budget", generation.bundle_id)
        spent_usd: float | None = None
        try:
            replica = min(usable, key=lambda each: each.inflight)
            asked = await self._call(replica, generation, ShadowRequest(request))
            spent_usd = 0.0 if asked.status == "error" and asked.cost_usd is None else asked.cost_usd
            return asked
        finally:
            await self._budget.settle(record.decision_id, estimated_usd, spent_usd)

    def _obstacle(self, student: Pool, record: DecisionRecord) -> ShadowStatus | None:
        """Why the student is not asked now."""
        if not record.decision.student_capable:
            return "skipped_unsupported"
        limit = self._config.max_student_inflight_requests
        full = limit is not None and all(replica.inflight >= limit for replica in student.replicas)
        return "skipped_load" if full or student.overflow() is not None else None

    async def _call(self, replica: Replica, generation: Generation, request: ShadowRequest) -> Asked:
        live = replica.backend
        wanted = generation.wanted if live.route == "student" else NOTHING
        added = request.additions(wanted._replace(token_ids=False, top_logprobs=0), keeps_text=True)
        twin = await self._twin(live)
        started_s, entered_at = time.monotonic(), live.machine.enter() if live.machine else 0.0
        machine_usd: float | None = None
        self._calls[live] = self._calls.get(live, 0) + 1
        try:
            reply = await fetch(
                twin,
                request,
                [],
                added,
                detailed=added != NOTHING,
                limit_bytes=self._max_response_bytes,
                limit_s=live.config.request_timeout_s,
            )
        except BackendError as error:
            return Asked("timeout" if error.cause == "timeout" else "error", generation.bundle_id)
        finally:
            self._calls[live] -= 1
            if live.machine is not None:
                machine_usd = live.machine.leave(entered_at)
        latency_s = time.monotonic() - started_s
        if reply.meaning is None:
            return Asked("error", generation.bundle_id, latency_s=latency_s)
        cost_usd = _cost_usd(live, reply.meaning.usage, machine_usd)
        return Asked("ok", generation.bundle_id, reply.meaning, cost_usd, latency_s)

    async def _twin(self, live: Backend) -> Backend:
        """The same endpoint, called on connections that live traffic does not need."""
        twin = self._twins.get(live)
        if twin is None:
            await self._close_unused()
            config = live.config.model_copy(update={"max_connections": self._config.max_concurrency})
            twin = Backend(live.route, config, self._environ, name=live.name)
            mark(twin, "shadow")
            await twin.__aenter__()
            self._twins[live] = twin
        return twin

    async def _close_unused(self) -> None:
        """Students that were replaced."""
        pools = self._generations.current.student, self._teacher
        serving = [replica.backend for pool in pools for replica in pool.replicas]
        for live in [each for each in self._twins if each not in serving and not self._calls.get(each)]:
            await self._twins.pop(live).__aexit__(None, None, None)
            self._calls.pop(live, None)


def _cost_usd(live: Backend, usage: Usage | None, machine_usd: float | None) -> float | None:
    """By the price list where there is one, else by the machine's time."""
    if live.price is None:
        return machine_usd
    return live.price.cost_usd(usage) if usage is not None else None
