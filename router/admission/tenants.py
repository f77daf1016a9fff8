"""Tenants: whose a key is, and what that tenant may use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from policies.base import Route
from policies.record import CaptureLevel
from router.config import LimitsConfig, TenantConfig
from router.errors import Forbidden

DEFAULT_TENANT = "default"
"""Everybody, where no keys are configured."""
ROUTES: frozenset[Route] = frozenset(get_args(Route))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """What a tenant may use; inf and None: without a limit."""

    name: str
    requests_per_minute: float = math.inf
    tokens_per_minute: float = math.inf
    max_concurrent_requests: int | None = None
    budget_usd_per_day: float = math.inf
    budget_usd_per_month: float = math.inf
    student_only_when_spent: bool = False
    models: frozenset[str] | None = None
    """None: every name that there is."""
    routes: frozenset[Route] = ROUTES
    capture: CaptureLevel = "full"
    tags: Mapping[str, str] = field(default_factory=dict)
    unlimited: bool = True
    """No limit and no budget: requests ask no store."""

    def check_model(self, model: str) -> None:
        """Raises: Forbidden: the tenant may not ask for this name."""
        if self.models is not None and model not in self.models:
            allowed = ", ".join(sorted(self.models))
            raise Forbidden(
                f"This API key may not use the model {model[:100]!r}, only: {allowed}.", code="model_not_allowed"
            )


class Tenants:
    """All tenants, made once each: the default limits, and over them the tenant's own table."""

    def __init__(self, limits: LimitsConfig, tables: Mapping[str, TenantConfig]) -> None:
        self._limits = limits
        self._tables = tables
        self._made: dict[str, Tenant] = {}

    def of(self, name: str) -> Tenant:
        """Names come from keys, so their number is bounded."""
        tenant = self._made.get(name)
        if tenant is None:
            tenant = self._made[name] = self._make(name)
        return tenant

    def _make(self, name: str) -> Tenant:
        table = self._limits
        own = self._tables.get(name)
        if own is not None:
            table = table.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})
        amounts = {
            key: math.inf if (amount := getattr(table, key)) is None else amount
            for key in ("requests_per_minute", "tokens_per_minute", "budget_usd_per_day", "budget_usd_per_month")
        }
        return Tenant(
            name=name,
            **amounts,
            max_concurrent_requests=table.max_concurrent_requests,
            student_only_when_spent=table.on_budget_spent == "student_only",
            models=frozenset(table.allowed_models) if table.allowed_models is not None else None,
            routes=frozenset(table.allowed_routes) if table.allowed_routes is not None else ROUTES,
            capture=table.capture or "full",
            tags=table.tags or {},
            unlimited=table.max_concurrent_requests is None and all(map(math.isinf, amounts.values())),
        )
