"""Admission: who sends a request, and whether it may be answered now, later or not at all."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

from router.admission.claims import (
    SLOT_TTL_S,
    cause_of,
    claims_of,
    concurrency_refusal,
    limit_headers,
    refusal,
    whole_seconds,
)
from router.admission.keyring import Keyring, KnownKey
from router.admission.keys import Scope
from router.admission.line import Line, NoPlace
from router.admission.permit import Permit
from router.admission.tenants import DEFAULT_TENANT, Tenant, Tenants
from router.config import Config, LimitsConfig, TenantConfig
from router.errors import Forbidden, Overloaded, RateLimited, StateUnavailable, Unauthorized
from router.http_client import Headers
from router.metrics import Metrics
from router.state import Adjust, Budget, Claim, Slots, Store, Verdict

RENEW_S = SLOT_TTL_S / 3
WATCH_S = 0.5
"""How often the file of keys is looked at."""
NOTHING_ASKED = Verdict(admitted=True, denied_by=None, retry_after_s=0.0, remaining=(), reset_s=())


class Caller(NamedTuple):
    """Who sent a request."""

    tenant: Tenant
    key_name: str = ""
    """Empty where no keys are configured, and so is the rest."""
    key_id: str = ""
    key_end: str = ""
    """Its last characters, where they are known."""


class Admission:
    """`authenticate`, then `admit`, then `Permit.settle`. `async with`: keeps reservations alive, reloads keys."""

    def __init__(
        self, config: Config, *, store: Store, metrics: Metrics, environ: Mapping[str, str] = os.environ
    ) -> None:
        """
        Args:
            store: shared over all processes and replicas; says itself what holds while it is out of reach.
        Raises:
            ConfigError: keys cannot be used.
        """
        self.tenants = Tenants(config.limits, config.tenants)
        self.line = Line(
            max_inflight=config.server.max_inflight_requests,
            max_queued=config.server.max_queued_requests,
            max_wait_s=config.server.max_queue_wait_s,
        )
        self._keyring = Keyring.from_config(config.auth, environ) if config.auth is not None else None
        self._anyone = Caller(self.tenants.of(DEFAULT_TENANT))
        self._store = store
        self._metrics = metrics
        self._holders: set[str] = set()
        """Of permits that hold something in the store."""
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._keep_renewing())]
        if self._keyring is not None:
            self._tasks.append(asyncio.create_task(self._watch_keys(self._keyring)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def configure(self, limits: LimitsConfig, tables: Mapping[str, TenantConfig]) -> None:
        """From now on requests are admitted by these limits; what has been admitted is settled by its own."""
        self.tenants = Tenants(limits, tables)
        self._anyone = Caller(self.tenants.of(DEFAULT_TENANT))

    def authenticate(self, headers: Headers) -> Tenant:
        """Whose request this is. Raises: Unauthorized, Forbidden."""
        if self._keyring is None:
            return self._anyone.tenant
        return self.tenants.of(self._known_key(self._keyring, headers, "inference").tenant)

    def identify(self, headers: Headers, scope: Scope) -> Caller:
        """Who may do this, with the key for audits. Without `[auth]` everybody may do everything but what an admin may.

        Raises: Unauthorized, Forbidden.
        """
        if self._keyring is None:
            if scope == "admin":
                raise Unauthorized("There is no admin key: add an [auth] table.")
            return self._anyone
        key = self._known_key(self._keyring, headers, scope)
        return Caller(self.tenants.of(key.tenant), key.name, key.id, key.last4)

    def _known_key(self, keyring: Keyring, headers: Headers, scope: Scope) -> KnownKey:
        """Raises: Unauthorized, Forbidden; they are counted."""
        try:
            return keyring.find(headers, scope)
        except (Unauthorized, Forbidden) as error:
            self._metrics.admission_refusals.labels(error.code).inc()
            raise

    def admit_at_once(self, tenant: Tenant, *, holder: str) -> Permit | None:
        """`admit` where nothing has to be asked or waited for: a tenant without limits, and a free place; else None."""
        if tenant.unlimited and self.line.try_enter(tenant.name):
            return Permit(self, tenant, holder)
        return None

    async def admit(
        self,
        tenant: Tenant,
        *,
        holder: str,
        estimated_tokens: int,
        estimated_cost_usd: float | None,
        deadline_s: float,
    ) -> Permit:
        """Let a request in, perhaps after a wait; without limits and with a free place nothing is awaited.

        Args:
            holder: the request's id.
            estimated_tokens: prompt and requested output, to be reserved.
            estimated_cost_usd: None: unknown.
            deadline_s: when the request must have been answered, in the event loop's time.
        Raises:
            RateLimited, BudgetSpent, Overloaded, StateUnavailable: all with `retry_after_s`.
        """
        arrived_s, waited = time.monotonic(), not self.line.try_enter(tenant.name)
        if waited:
            await self._wait(tenant, self.line.enter(tenant.name, deadline_s=deadline_s))
        if tenant.unlimited:
            permit = Permit(self, tenant, holder)
        else:
            claims = claims_of(tenant, tokens=estimated_tokens, cost_usd=estimated_cost_usd)
            permit = await self._claim(tenant, holder, claims, deadline_s)
        if waited or permit.waited:
            self._metrics.admission_wait.observe(time.monotonic() - arrived_s)
        return permit

    async def settled(self, permit: Permit, held_s: float, adjustments: Sequence[Adjust]) -> None:
        """A permit has ended. The store comes first: who is let in next asks it at once."""
        try:
            if adjustments:
                self._holders.discard(permit.holder)
                if not self._store.settle_at_once(adjustments, holder=permit.holder):
                    await self._store.settle(adjustments, holder=permit.holder)
        finally:
            self.line.leave(permit.tenant.name, held_s)

    async def _claim(self, tenant: Tenant, holder: str, claims: Sequence[Claim], deadline_s: float) -> Permit:
        """The request has a place; now what it takes of its tenant's share."""
        spent: RateLimited | None = None
        waited = False
        while True:
            asked = claims if spent is None else [claim for claim in claims if not isinstance(claim, Budget)]
            try:
                verdict = self._store.admit_at_once(asked, holder=holder) if asked else NOTHING_ASKED
                if verdict is None:
                    verdict = await self._store.admit(asked, holder=holder)
            except BaseException as error:
                if isinstance(error, StateUnavailable):
                    self._metrics.admission_refusals.labels(error.code).inc()
                await self._give_back(tenant, holder, asked)
                raise
            if verdict.admitted:
                break
            denied = asked[verdict.denied_by or 0]
            if isinstance(denied, Slots):
                waited = True
                await self._wait(tenant, self.line.step_back(tenant.name, limit=denied.limit, deadline_s=deadline_s))
            elif isinstance(denied, Budget) and tenant.student_only_when_spent and "student" in tenant.routes:
                spent = refusal(tenant, asked, verdict)
                claims = [_only_charged(claim) for claim in claims]
            else:
                self.line.leave(tenant.name)
                self._metrics.admission_refusals.labels(cause_of(denied, tenant)).inc()
                raise refusal(tenant, asked, verdict)
        self._holders.add(holder)
        if self.line.waiting and any(
            isinstance(claim, Slots) and left >= 1 for claim, left in zip(asked, verdict.remaining, strict=True)
        ):
            self.line.give_turn(tenant.name)
        headers = limit_headers(tenant, asked, verdict)
        return Permit(self, tenant, holder, claims, headers, spent=spent, waited=waited)

    async def _give_back(self, tenant: Tenant, holder: str, claims: Sequence[Claim]) -> None:
        """The store was asked and its answer will not be used, or was lost: it may have given something."""
        try:
            await self._store.settle([Adjust(claim) for claim in claims], holder=holder)
        finally:
            self.line.leave(tenant.name)

    async def _wait(self, tenant: Tenant, place: Awaitable[None]) -> None:
        """Wait for a place. Raises: Overloaded, or RateLimited where the tenant's own limit is in the way."""
        metrics = self._metrics
        metrics.admission_waiting.inc()
        try:
            await place
        except NoPlace as refused:
            metrics.admission_refusals.labels(refused.reason.value).inc()
            retry_after_s = whole_seconds(refused.wait_s)
            if refused.at_tenant_limit:
                raise concurrency_refusal(tenant, retry_after_s) from refused
            raise Overloaded("The gateway is full; try again soon.", retry_after_s=retry_after_s) from refused
        finally:
            metrics.admission_waiting.dec()

    async def renew(self) -> None:
        """Keep what running requests hold. Others forget a gateway that does not do this for `SLOT_TTL_S`."""
        holders = list(self._holders)
        if holders:
            with suppress(StateUnavailable):  # slots outlive two missed turns
                await self._store.renew(holders)

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await self.renew()

    async def _watch_keys(self, keyring: Keyring) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            if await asyncio.to_thread(lambda: keyring.changed):
                await asyncio.to_thread(keyring.reload)


def _only_charged(claim: Claim) -> Claim:
    """A spent budget is asked no more, but what the student costs is charged to it in the end."""
    return Budget(claim.key, claim.limit, 0.0, claim.resets) if isinstance(claim, Budget) else claim
