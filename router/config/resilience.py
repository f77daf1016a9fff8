"""What the gateway does when a backend is slow, full or down."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, field_validator

from router.addresses import plain_http_url
from router.config.base import EnvName, ModelName, NativeApi, Price, Seconds, Table, TokenPrices
from router.config.tls import BackendTlsConfig

Spread = Literal["least_loaded", "session", "prefix"]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, strict=True)]


class ReplicaConfig(Table):
    """One of several endpoints that serve the same student."""

    base_url: str = Field(description="Up to and including `/v1`; http or https.")
    name: ModelName | None = Field(
        None, description="Label in metrics and `/readyz`; default: `student-` and its place in the list."
    )
    api_key_env: EnvName | None = Field(
        None, description="Environment variable that holds this replica's key; default: the student's."
    )
    machine_usd_per_hour: Price | None = Field(None, description="Of this replica's machine; default: the student's.")

    @field_validator("base_url")
    @classmethod
    def _usable(cls, value: str) -> str:
        return plain_http_url(value)


Continuation = Literal["instruction", "final_message"]


class FallbackTeacherConfig(TokenPrices):
    """A further teacher, asked when those before it cannot answer. Timeouts and limits are the first teacher's."""

    base_url: str = Field(description="Up to and including `/v1`; http or https.")
    name: ModelName | None = Field(
        None, description="Label in metrics and `/readyz`; default: `teacher-` and its place among all teachers."
    )
    model: ModelName = Field("teacher", description="The name that the backend knows the model by.")
    api_key_env: EnvName | None = Field(None, description="Environment variable that holds the backend's key.")
    native_apis: tuple[NativeApi, ...] = Field((), description="As of the first teacher.")
    tls: BackendTlsConfig = BackendTlsConfig()
    continuation: Continuation = Field("instruction", description="As of the first teacher.")
    distillation: Literal["allowed", "conditional", "denied"] = Field(
        "denied", description="Whether this teacher's licence allows training on its answers."
    )

    @field_validator("base_url")
    @classmethod
    def _usable(cls, value: str) -> str:
        return plain_http_url(value)


class BreakerConfig(Table):
    """When a replica is left alone, and when it is tried again."""

    consecutive_failures: StrictInt = Field(
        5, ge=1, description="Failures in a row that open it: no connection, reset, timeout, 5xx, no valid answer."
    )
    error_rate: Share = Field(0.5, description="Share of failures within the window that opens it.")
    window_s: Seconds = Field(30.0, description="What the error rate is measured over.")
    min_requests: StrictInt = Field(20, ge=1, description="The error rate counts from this many requests.")
    open_s: Seconds = Field(5.0, description="Time without requests; doubled each time that the probes fail.")
    max_open_s: Seconds = Field(60.0, description="Longest time without requests.")
    half_open_probes: StrictInt = Field(
        1, ge=1, description="Requests let through at once to try it; as many successes close it."
    )


class RetryConfig(Table):
    """Repeated calls of the same model, before the first byte only."""

    max_per_request: StrictInt = Field(2, ge=0, le=10, description="Retries of one request; 0 turns them off.")
    budget_ratio: float = Field(
        0.2, ge=0, le=1, strict=True, description="Retries and hedges a backend may get, as a share of its requests."
    )
    budget_burst: StrictInt = Field(10, ge=0, description="Retries that may be saved up beyond that share.")
    base_delay_s: Seconds = Field(0.05, description="The n-th wait is random between 0 and this times 2^(n-1).")
    max_delay_s: Seconds = Field(1.0, description="Upper limit of that.")
    max_retry_after_s: float = Field(
        2.0,
        ge=0,
        le=600,
        strict=True,
        description="A backend's Retry-After up to this is waited for, within the request's deadline; beyond it the "
        "next backend answers, or the client gets the Retry-After.",
    )


class SpillConfig(Table):
    """Load of the student beyond which the teacher answers. It costs money, so each limit is off until it is set.

    With several replicas the student counts as full when all of them are.
    """

    max_waiting_requests: StrictInt | None = Field(
        None, ge=1, description="Requests in a replica's queue, from its `/metrics`: reason `overflow_queue`."
    )
    max_inflight_requests: StrictInt | None = Field(
        None,
        ge=1,
        description="Requests that this gateway process has at a replica, also for a student without `/metrics`: "
        "reason `overflow_queue`.",
    )
    max_kv_usage: Share | None = Field(
        None, description="Share of a replica's KV cache in use, from its `/metrics`: reason `overflow_kv`."
    )
    max_ttft_s: Seconds | None = Field(
        None, description="Moving average of a replica's time to first token: reason `overflow_ttft`."
    )
    return_ratio: Share = Field(0.8, description="The student gets requests again below this share of a limit.")
    ttft_half_life_s: Seconds = Field(
        5.0, description="Half-life of that average; without new streams it falls with it, so that some are tried."
    )
    metrics_interval_s: Seconds = Field(
        1.0, description="How often `/metrics` is read, when a limit or the spread needs it."
    )
    metrics_max_age_s: Seconds = Field(
        3.0, description="Older values are not used: then this process's own requests count."
    )


class HedgingConfig(Table):
    """A second attempt beside a slow first one; the first answer wins, the other is cancelled. It spends the
    budget of the retries."""

    enabled: StrictBool = Field(False, description="Whether slow requests are hedged.")
    quantile: Share = Field(
        0.95, description="Of the latest first answers' times; a request older than this is hedged."
    )
    min_delay_s: Seconds = Field(0.1, description="No request is hedged earlier.")


class ResilienceConfig(Table):
    """Faults and overload."""

    breaker: BreakerConfig = BreakerConfig()
    retries: RetryConfig = RetryConfig()
    spill: SpillConfig = SpillConfig()
    hedging: HedgingConfig = HedgingConfig()
