"""Where traces and metrics are sent as OpenTelemetry."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictBool, StrictInt, field_validator

from router.addresses import plain_http_url
from router.config.base import EnvName, Seconds, Table


class TelemetryConfig(Table):
    """OpenTelemetry; without the table nothing is sent. Needs `pip install 'locum[otel]'`."""

    endpoint: str = Field(
        "http://127.0.0.1:4318",
        description="OTLP receiver; http or https. Over HTTP `/v1/traces` and `/v1/metrics` are appended; gRPC listens "
        "on 4317 as a rule.",
    )
    protocol: Literal["http/protobuf", "grpc"] = Field(
        "http/protobuf", description="`grpc` needs `pip install 'locum[otel-grpc]'`."
    )
    headers_env: EnvName | None = Field(
        None, description="Environment variable with headers for the receiver: `name=value,name=value`, URL-encoded."
    )
    service_name: str = Field("locum", min_length=1, max_length=255, description="Resource attribute `service.name`.")
    traces: StrictBool = Field(True, description="Send traces.")
    metrics: StrictBool = Field(True, description="Send metrics of the GenAI conventions; `/metrics` stays.")
    sample_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        strict=True,
        description="Share of requests that are traced; a client's `traceparent` decides for its own.",
    )
    propagate: StrictBool = Field(
        True, description="Send `traceparent` to the backends; else neither ours nor the client's reaches them."
    )
    traces_interval_s: Seconds = Field(5.0, description="How often traces are sent, at the latest.")
    metrics_interval_s: Seconds = Field(60.0, description="How often metrics are sent.")
    timeout_s: Seconds = Field(10.0, description="Of one delivery, retries included.")
    max_queued_spans: StrictInt = Field(
        8192, ge=1, le=10**6, description="Spans that wait for the receiver; more are dropped. No request waits."
    )

    @field_validator("endpoint")
    @classmethod
    def _usable(cls, value: str) -> str:
        return plain_http_url(value)
