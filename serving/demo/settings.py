"""The demo's `locum.toml`: the file that a user would write for these two models."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from serving.demo.questions import ALIAS
from serving.demo.results import Prices

ENCODER_BUDGET_S = 5.0
"""The demo's models leave the encoder little of two cores; in production keep the default."""
FIRST_TOKEN_TIMEOUT_S = 400.0
REQUEST_TIMEOUT_S = 500.0
"""A long prompt takes the local teacher minutes on two busy cores; an API answers in seconds."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server."""

    base_url: str
    """Up to and including `/v1`."""
    model: str
    api_key_env: str | None = None


@dataclass(frozen=True, kw_only=True)
class GatewaySetup:
    """What the demo's gateway is configured with."""

    port: int
    student: Endpoint
    teacher: Endpoint
    prices: Prices
    tokenizer: Path | None = None
    """The student's folder; None leaves the length estimate."""
    compute_similarities: bool = True
    """Whether chunks without scores are compared by the gateway's own encoder (extra [semantic])."""


def locum_toml(setup: GatewaySetup, traffic: Path) -> str:
    """The configuration's text; strings are written as JSON, which TOML reads the same way."""
    prices = setup.prices
    lines = [
        "# Written by `locum demo` for the two models that it starts.",
        "[server]",
        f"port = {setup.port}",
        "",
        "[student]",
        *_endpoint(setup.student, prices.student_input_usd, prices.student_output_usd),
        *([f"tokenizer = {json.dumps(str(setup.tokenizer))}"] if setup.tokenizer else []),
        f"first_token_timeout_s = {FIRST_TOKEN_TIMEOUT_S}",
        "",
        "[teacher]",
        *_endpoint(setup.teacher, prices.teacher_input_usd, prices.teacher_output_usd),
        f"first_token_timeout_s = {FIRST_TOKEN_TIMEOUT_S}",
        f"request_timeout_s = {REQUEST_TIMEOUT_S}",
        "idle_timeout_s = 120.0",
        "",
        "[[routing.policies]]",
        'type = "long_context"',
        "",
        "[[routing.policies]]",
        'type = "retrieval_confidence"',
        "escalate_below = 0.55",
        "# Chunks that come without scores are compared by the gateway's own encoder.",
        f"compute = {json.dumps(setup.compute_similarities)}",
        "",
        "[[routing.policies]]",
        'type = "long_reasoning"',
        "",
        "[encoder]",
        f"latency_budget_s = {ENCODER_BUDGET_S}",
        "",
        "[aliases]",
        f'{json.dumps(ALIAS)} = "auto"',
        "",
        "[log]",
        f"dir = {json.dumps(str(traffic))}",
    ]
    return "\n".join(lines) + "\n"


def split_cores(cores: list[int]) -> tuple[list[int], list[int]]:
    """(student's, teacher's): disjoint halves, since two multi-threaded models on the same cores thrash.

    With one core both share it.
    """
    if len(cores) < 2:
        return cores, cores
    half = len(cores) // 2
    return cores[:half], cores[half:]


def usable_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def free_port(preferred: int = 0) -> int:
    """`preferred` if nothing listens there, else one that is free now."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


def _endpoint(endpoint: Endpoint, input_usd: float | None, output_usd: float | None) -> list[str]:
    lines = [f"base_url = {json.dumps(endpoint.base_url)}", f"model = {json.dumps(endpoint.model)}"]
    if endpoint.api_key_env is not None:
        lines.append(f"api_key_env = {json.dumps(endpoint.api_key_env)}")
    if input_usd is not None:
        lines.append(f"price_usd_per_1m_input_tokens = {input_usd}      # list price")
    if output_usd is not None:
        lines.append(f"price_usd_per_1m_output_tokens = {output_usd}      # list price")
    return lines
