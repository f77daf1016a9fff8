"""Who may use the gateway, and how much of it: API keys, tenants, limits and budgets."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, StrictInt, model_validator

from router.config.base import EnvName, RouteName, Table

DEFAULT_KEYS_ENV = "LOCUM_API_KEYS"
UNLIMITED = "unlimited"


def _amount(value: Any) -> Any:
    if value == UNLIMITED:
        return math.inf
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"must be a number above 0, or {UNLIMITED!r}")
    return value


Amount = Annotated[
    float,
    Field(gt=0, strict=True),
    BeforeValidator(_amount),
    PlainSerializer(lambda value: UNLIMITED if value == math.inf else value),
]
"""More than 0, or "unlimited", which is inf inside."""


class AuthConfig(Table):
    """API keys: pairs in an environment variable, and a file that `locum keys` writes."""

    keys_env: EnvName | None = Field(
        None,
        description="Variable with comma-separated `tenant=key` pairs; default: `LOCUM_API_KEYS`, "
        "or none beside `keys_file`.",
    )
    keys_file: str | None = Field(
        None,
        min_length=1,
        description="File with the hashes of the keys that `locum keys` makes; a change is seen within a second.",
    )
    admin_key_env: EnvName | None = Field(None, description="Variable with the key of `/admin`.")

    @model_validator(mode="before")
    @classmethod
    def _pairs_unless_file(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("keys_file") is None:
            return {"keys_env": DEFAULT_KEYS_ENV, **data}
        return data


class TenantConfig(Table):
    """What one tenant may use; what is left out is as in `[limits]`."""

    requests_per_minute: Amount | None = Field(None, description="Requests a minute, as a bucket refilled evenly.")
    tokens_per_minute: Amount | None = Field(
        None,
        description="Tokens a minute: prompt and requested output are reserved, then settled to what was used.",
    )
    max_concurrent_requests: StrictInt | None = Field(
        None, ge=1, description="Requests of the tenant in flight at once, over all replicas; more wait in the queue."
    )
    budget_usd_per_day: Amount | None = Field(None, description="What may be spent in a calendar day (UTC).")
    budget_usd_per_month: Amount | None = Field(None, description="What may be spent in a calendar month (UTC).")
    on_budget_spent: Literal["refuse", "student_only"] | None = Field(
        None,
        description="`refuse` (the default): 429 with the code `insufficient_quota`. `student_only`: the teacher is "
        "used no more, and the student answers what a policy wanted it for, with `x-router-degraded: budget_spent`.",
    )
    allowed_models: tuple[str, ...] | None = Field(
        None, min_length=1, description="Model names that may be asked for; default: all."
    )
    allowed_routes: tuple[RouteName, ...] | None = Field(
        None, min_length=1, description="Models that may answer: `student`, `teacher` or both."
    )
    capture: Literal["none", "metadata", "full"] | None = Field(
        None, description="The most that the traffic log may keep of a request."
    )
    tags: dict[str, str] | None = Field(None, description="Tags of every request; a request's own win.")


class LimitsConfig(TenantConfig):
    """What every tenant may use whose own table says nothing else; nothing is limited by default."""
