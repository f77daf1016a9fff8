"""Where the gateway listens, and its bounds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictBool, StrictInt

from router.config.base import Seconds, Table
from router.config.tls import ServerTlsConfig


class ServerConfig(Table):
    """Where the gateway listens, and its bounds."""

    host: str = Field("127.0.0.1", description="Address to listen on; without `[auth]` only loopback is accepted.")
    port: StrictInt = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it.")
    tls: ServerTlsConfig | None = None
    workers: StrictInt = Field(
        1, ge=1, le=256, description="Gateway processes on the port, with merged metrics; one a core is a good number."
    )
    worker_start_timeout_s: Seconds = Field(60.0, description="Time in which a worker must have come to serve.")
    log_format: Literal["text", "json"] = Field(
        "text", description="Of the process's own log on stderr; lines of a request carry its decision id and route."
    )
    access_log: StrictBool = Field(False, description="Log a line for each request, without content.")
    max_inflight_requests: StrictInt = Field(
        1024, ge=1, description="Requests in flight at once; more wait in the queue."
    )
    max_queued_requests: StrictInt = Field(
        256, ge=0, description="Requests that wait for a place, fairly over tenants; more get 503 with Retry-After."
    )
    max_queue_wait_s: Seconds = Field(
        10.0, description="Longest wait in the queue; who would wait longer, or past its deadline, is refused at once."
    )
    max_body_bytes: StrictInt = Field(32 * 2**20, ge=1024, description="Largest request body; more get 413.")
    max_response_bytes: StrictInt = Field(
        64 * 2**20, ge=1024, description="Largest plain answer that is taken from a backend."
    )
    request_timeout_s: Seconds = Field(600.0, description="The whole request, fall backs and slow readers included.")
    body_timeout_s: Seconds = Field(
        30.0, description="Time in which a client must have sent a request's head, and then its body."
    )
    probe_interval_s: Seconds = Field(5.0, description="How often the backends are asked for `/v1/models`.")
    drain_timeout_s: Seconds = Field(30.0, description="Time that running requests get after SIGTERM.")
    shutdown_delay_s: float = Field(
        0.0,
        ge=0,
        le=600,
        allow_inf_nan=False,
        description="After SIGTERM `/readyz` says 503 for this long while requests are still taken, so that load "
        "balancers turn away first.",
    )
    idle_grace_s: Seconds = Field(
        1.0,
        description="When draining, idle connections stay this long for a request that is on its way; its answer says "
        "`connection: close`.",
    )
    heartbeat_interval_s: Seconds | None = Field(
        None,
        description="Streams: a comment after each such time without an answer, for proxies that cut silent "
        "connections; the first one fixes status 200. Default: none.",
    )
    retry_after_s: StrictInt = Field(5, ge=1, le=3600, description="Retry-After of a 503 when no backend says better.")
