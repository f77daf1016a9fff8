"""Locum itself, from the environment that this runs in."""

from __future__ import annotations

import hashlib
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from loadtests.faults.system import (
    EJECTED_FOR_S,
    FAILURES_TO_EJECT,
    FIRST_TOKEN_TIMEOUT_S,
    IDLE_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    Launch,
    NotInstalled,
    Setting,
    Upstreams,
)

_TOML = """\
[server]
port = {port}
request_timeout_s = 30.0
drain_timeout_s = 8.0
probe_interval_s = 1.0

[student]
base_url = "{upstreams.first_url}"
model = "{upstreams.first_model}"
context_window_tokens = 1_000_000
price_usd_per_1m_input_tokens = 0.02
price_usd_per_1m_output_tokens = 0.04
{timeouts}

[teacher]
base_url = "{upstreams.second_url}"
model = "{upstreams.second_model}"
price_usd_per_1m_input_tokens = 2.5
price_usd_per_1m_output_tokens = 10.0
{timeouts}

[routing]
fall_back_when_student_forced = false
{policies}
{breaker}

[log]
dir = "{folder}/traffic"
write_timeout_s = 10.0
"""
_TIMEOUTS = f"""\
first_token_timeout_s = {FIRST_TOKEN_TIMEOUT_S}
idle_timeout_s = {IDLE_TIMEOUT_S}
request_timeout_s = {REQUEST_TIMEOUT_S}"""
_CASCADE = """\
[[routing.policies]]
type = "cascade"
calibrator = "{calibrator}"
threshold = 0.5"""
_CALIBRATOR: dict[str, Any] = {
    "schema": 1,
    "calibrator": {"type": "platt", "slope": 2.0, "intercept": 4.0},
    "raw": "mean_logprob",
    "source": "made up for this table",
    "n": 0,
    "n_sufficient": 0,
    "ece": 0.0,
    "reliability": [],
}
"""P(right) = 0.5 at a mean logprob of -2."""
_BREAKER = f"""\
[resilience.breaker]
consecutive_failures = {FAILURES_TO_EJECT}
open_s = {float(EJECTED_FOR_S)}"""


class Locum:
    """`locum serve`: the first upstream as student, the second as teacher; metrics and the traffic log on."""

    name = "Locum"
    about = (
        "`locum serve`, one process, metrics and traffic log on, no keys; the first upstream is the student, the "
        "second the teacher; a draft is rejected when the mean logprob of its tokens (of a stream: the first 32) is "
        "below -2"
    )

    @property
    def version(self) -> str:
        return version("locum")

    def install(self, cache: Path) -> None:
        if not self._program.exists():
            raise NotInstalled(f"there is no `locum` command beside {Path(sys.executable).name}: run make install")

    def launch(self, setting: Setting, port: int, upstreams: Upstreams, folder: Path) -> Launch:
        config, calibrator = folder / f"{setting}.toml", folder / "calibrator.json"
        if setting == "cascade":
            calibrator.write_bytes(_artefact(_CALIBRATOR))
        config.write_text(
            _TOML.format(
                port=port,
                upstreams=upstreams,
                folder=folder,
                timeouts=_TIMEOUTS,
                breaker=_BREAKER if setting == "replicas" else "",
                policies=_CASCADE.format(calibrator=calibrator) if setting == "cascade" else "policies = []",
            )
        )
        return Launch(
            command=(str(self._program), "serve", "-c", str(config), "--log-level", "warning"),
            ready_path="/readyz",
            model="student" if setting == "alone" else "auto",
        )

    def check_stoppable(self) -> None:
        """It is a process."""

    @property
    def _program(self) -> Path:
        return Path(sys.executable).with_name("locum")


def _artefact(fields: dict[str, Any]) -> bytes:
    """A file as `locum tune --out` writes it, with the hash of its content."""
    sha256 = hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()
    return msgspec.json.encode({"sha256": sha256, **fields})
