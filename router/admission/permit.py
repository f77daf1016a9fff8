"""What an admitted request holds until it ends: its place, and what it has reserved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from policies.base import Route
from router.admission.claims import tokens_key
from router.admission.tenants import Tenant
from router.http_client import Headers
from router.state import Adjust, Budget, Claim, Rate, Slots

if TYPE_CHECKING:
    from router.admission.admission import Admission


class Permit:
    """Leave to answer one request. `settle` ends it, on every way out, once."""

    __slots__ = (
        "_admission",
        "_granted_s",
        "_open",
        "budget_spent",
        "claims",
        "headers",
        "holder",
        "is_local",
        "tenant",
    )

    def __init__(
        self,
        admission: Admission,
        tenant: Tenant,
        holder: str,
        claims: Sequence[Claim] = (),
        headers: Headers | None = None,
        *,
        budget_spent: bool = False,
        is_local: bool = False,
    ) -> None:
        """
        Args:
            claims: what was claimed for the request, or must be charged to it.
            headers: the tenant's limits, for the response.
            budget_spent: the tenant's money is spent; only the student may answer.
            is_local: the store was out of reach; this process keeps count by itself.
        """
        self.tenant = tenant
        self.holder = holder
        self.claims = claims
        self.headers: Headers = headers if headers is not None else []
        self.budget_spent = budget_spent
        self.is_local = is_local
        self._admission = admission
        self._granted_s = time.monotonic()
        self._open = True

    @property
    def teacher_allowed(self) -> bool:
        return not self.budget_spent and "teacher" in self.tenant.routes

    def allows(self, route: Route) -> bool:
        """Whether this model may answer."""
        return route in self.tenant.routes and not (self.budget_spent and route == "teacher")

    @property
    def degraded(self) -> Literal["budget_spent"] | None:
        """What an answer by the student says where a policy wanted the teacher; None: the tenant has no teacher."""
        return "budget_spent" if self.budget_spent else None

    async def settle(self, *, tokens: int | None, cost_usd: float | None) -> None:
        """Give the place back, and correct what was reserved to what was used. Only the first call has an effect.

        Args:
            tokens, cost_usd: of all calls that were made for the request; None: unknown, the reservation stands.
        """
        if not self._open:
            return
        self._open = False
        await self._admission.settled(self, time.monotonic() - self._granted_s, self._adjustments(tokens, cost_usd))

    def _adjustments(self, tokens: int | None, cost_usd: float | None) -> list[Adjust]:
        adjustments = []
        for claim in self.claims:
            if isinstance(claim, Slots):
                adjustments.append(Adjust(claim))
                continue
            used = cost_usd if isinstance(claim, Budget) else tokens
            if isinstance(claim, Rate) and claim.key != tokens_key(self.tenant):
                used = None  # a request is a request
            adjustments.append(Adjust(claim, claim.amount if used is None else float(used)))
        return adjustments
