"""What an admitted request holds until it ends: its place, and what it has reserved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from policies.base import RouteDecision
from router.admission.claims import tokens_key
from router.admission.tenants import Tenant
from router.errors import Forbidden, RateLimited
from router.http_client import Headers
from router.routing import FORCED_POLICY
from router.state import Adjust, Budget, Claim, Rate, Slots

if TYPE_CHECKING:
    from router.admission.admission import Admission


class Permit:
    """Leave to answer one request. `settle` ends it, on every way out, once."""

    __slots__ = ("_admission", "_claims", "_granted_s", "_open", "headers", "holder", "spent", "tenant", "waited")

    def __init__(
        self,
        admission: Admission,
        tenant: Tenant,
        holder: str,
        claims: Sequence[Claim] = (),
        headers: Headers | None = None,
        *,
        spent: RateLimited | None = None,
        waited: bool = False,
    ) -> None:
        """
        Args:
            claims: what was claimed for the request, or must be charged to it.
            headers: the tenant's limits, for the response.
            spent: the tenant's budget is spent, and this is the error for what the student may not answer instead.
        """
        self.tenant = tenant
        self.holder = holder
        self.headers: Headers = headers if headers is not None else []
        self.spent = spent
        self.waited = waited
        """At its tenant's limit."""
        self._admission = admission
        self._claims = claims
        self._granted_s = time.monotonic()
        self._open = True

    @property
    def is_open(self) -> bool:
        """Not settled yet."""
        return self._open

    @property
    def teacher_allowed(self) -> bool:
        return self.spent is None and "teacher" in self.tenant.routes

    @property
    def degraded(self) -> Literal["budget_spent", "teacher_not_allowed"]:
        """What the student's answer says where a policy wanted the teacher and `teacher_allowed` is False."""
        return "teacher_not_allowed" if self.spent is None else "budget_spent"

    def restricted(self, decision: RouteDecision) -> RouteDecision:
        """The decision as far as the tenant may have it. Who may stand in for whom follows from `policy` and
        `teacher_allowed`: nobody may for a forced route.

        Raises: BudgetSpent, Forbidden: no model that the tenant may use can answer this.
        """
        forced = decision.policy == FORCED_POLICY
        if "student" not in self.tenant.routes:
            if forced and decision.route == "student":
                raise Forbidden("This API key may not use the student.", code="route_not_allowed")
            return msgspec.structs.replace(decision, route="teacher", policy=FORCED_POLICY)
        if decision.route == "teacher" and not self.teacher_allowed and (forced or not decision.student_capable):
            raise self.spent or Forbidden(
                "This request needs the teacher, which this API key may not use.", code="route_not_allowed"
            )
        return decision

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
        for claim in self._claims:
            if isinstance(claim, Slots):
                adjustments.append(Adjust(claim))
                continue
            used = cost_usd if isinstance(claim, Budget) else tokens
            if isinstance(claim, Rate) and claim.key != tokens_key(self.tenant):
                used = None  # a request is a request
            adjustments.append(Adjust(claim, claim.amount if used is None else float(used)))
        return adjustments
