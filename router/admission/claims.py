"""What a request claims of the shared state, what refuses it, and what the client is told about its limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from router.admission.tenants import Tenant
from router.errors import BudgetSpent, RateLimited
from router.http_client import Headers
from router.state import Budget, Claim, Rate, Slots, Verdict

SLOT_TTL_S = 30.0
"""A gateway that dies holds its tenants' places for so long."""
MAX_RETRY_AFTER_S = 31 * 86_400
NEVER_RETRY_AFTER_S = 3600
"""For what waiting cannot help; every 429 has a Retry-After."""
OF_REQUESTS, OF_TOKENS = (
    (b"x-ratelimit-limit-" + kind, b"x-ratelimit-remaining-" + kind, b"x-ratelimit-reset-" + kind)
    for kind in (b"requests", b"tokens")
)
NO_RETRY = ((b"x-should-retry", b"false"),)
"""OpenAI's and Anthropic's clients try again on every 429 unless they are told that it is in vain."""


def requests_key(tenant: Tenant) -> str:
    return f"tenant/{tenant.name}/requests"


def tokens_key(tenant: Tenant) -> str:
    return f"tenant/{tenant.name}/tokens"


def claims_of(tenant: Tenant, *, tokens: int, cost_usd: float | None) -> tuple[Claim, ...]:
    """What a request of the tenant takes. An unknown cost claims nothing of a budget, but a spent one refuses it."""
    claims: list[Claim] = []
    if tenant.requests_per_minute < math.inf:
        claims.append(_one_request(requests_key(tenant), tenant.requests_per_minute))
    if tenant.tokens_per_minute < math.inf:
        claims.append(Rate(tokens_key(tenant), tenant.tokens_per_minute, float(tokens)))
    if tenant.budget_usd_per_day < math.inf:
        claims.append(Budget(f"tenant/{tenant.name}/usd", tenant.budget_usd_per_day, cost_usd or 0.0, "day"))
    if tenant.budget_usd_per_month < math.inf:
        claims.append(Budget(f"tenant/{tenant.name}/usd", tenant.budget_usd_per_month, cost_usd or 0.0, "month"))
    if tenant.max_concurrent_requests is not None:
        claims.append(_one_slot(f"tenant/{tenant.name}/slots", tenant.max_concurrent_requests))
    return tuple(claims)


@lru_cache(maxsize=1024)
def _one_request(key: str, per_minute: float) -> Rate:
    return Rate(key, per_minute, 1.0)


@lru_cache(maxsize=1024)
def _one_slot(key: str, limit: int) -> Slots:
    return Slots(key, limit, SLOT_TTL_S)


def cause_of(claim: Claim, tenant: Tenant) -> str:
    """Label of a refusal by this claim."""
    if isinstance(claim, Budget):
        return f"budget_{claim.resets}"
    if isinstance(claim, Slots):
        return "concurrency"
    return "requests_per_minute" if claim.key == requests_key(tenant) else "tokens_per_minute"


def refusal(tenant: Tenant, claims: Sequence[Claim], verdict: Verdict) -> RateLimited:
    """The error for claims that the store has denied."""
    claim = claims[verdict.denied_by or 0]
    never = math.isinf(verdict.retry_after_s)
    retry_after_s = NEVER_RETRY_AFTER_S if never else whole_seconds(verdict.retry_after_s)
    error: RateLimited
    if isinstance(claim, Budget):
        message = (
            f"This request may cost more than the whole budget of this {claim.resets}; ask for less output."
            if never
            else f"The budget of this {claim.resets} ({claim.limit:g} USD) is spent."
        )
        error = BudgetSpent(message, retry_after_s=retry_after_s)
    elif isinstance(claim, Slots):
        error = concurrency_refusal(tenant, retry_after_s)
    elif claim.key == requests_key(tenant):
        error = RateLimited(f"More than {claim.per_minute:g} requests a minute.", retry_after_s=retry_after_s)
    else:
        message = f"More than {claim.per_minute:g} tokens a minute; this request may use {claim.amount:g}"
        message += ": never possible, ask for less output (max_tokens) or send less." if never else "."
        error = RateLimited(message, retry_after_s=retry_after_s)
    final = NO_RETRY if never or isinstance(claim, Budget) else ()
    error.headers = (*limit_headers(tenant, claims, verdict), *final)
    return error


def concurrency_refusal(tenant: Tenant, retry_after_s: int) -> RateLimited:
    return RateLimited(f"More than {tenant.max_concurrent_requests} requests at once.", retry_after_s=retry_after_s)


def limit_headers(tenant: Tenant, claims: Sequence[Claim], verdict: Verdict) -> Headers:
    """The tenant's limits in OpenAI's spelling; none for what is not limited."""
    headers: Headers = []
    for claim, remaining, reset_s in zip(claims, verdict.remaining, verdict.reset_s, strict=True):
        if isinstance(claim, Rate):
            limit, left, reset = OF_REQUESTS if claim.key == requests_key(tenant) else OF_TOKENS
            headers += (
                (limit, b"%d" % claim.per_minute),
                (left, b"%d" % max(0.0, remaining)),
                (reset, duration(reset_s)),
            )
    return headers


def duration(seconds: float) -> bytes:
    """As OpenAI spells it: 20ms, 1.5s, 6m0s, 1h2m3s."""
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1000)
    if seconds < 60:
        return f"{math.ceil(seconds * 1000) / 1000:g}s".encode()
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return b"%dh%dm%ds" % (hours, minutes, rest) if hours else b"%dm%ds" % (minutes, rest)


def whole_seconds(seconds: float) -> int:
    """For Retry-After: never too early, never 0."""
    return min(max(1, math.ceil(seconds)), MAX_RETRY_AFTER_S)
