"""vLLM's router in Rust."""

from __future__ import annotations

from pathlib import Path

from loadtests.faults.install import locked_version, python_packages
from loadtests.faults.system import (
    EJECTED_FOR_S,
    FAILURES_TO_EJECT,
    REQUEST_TIMEOUT_S,
    Launch,
    NotApplicable,
    Setting,
    Upstreams,
)
from loadtests.systems import free_port


class VllmRouter:
    """It spreads the requests for one model over equal workers; it knows no second model."""

    name = "vllm-router"
    about = (
        "`--policy round_robin` over one worker; where the upstream stays dead over two, with the circuit breaker and "
        f"a request timeout of {REQUEST_TIMEOUT_S:g} s"
    )

    @property
    def version(self) -> str:
        return locked_version("vllm-router", "vllm-router")

    def install(self, cache: Path) -> None:
        self._python = python_packages(cache, "vllm-router")

    def launch(self, setting: Setting, port: int, upstreams: Upstreams, folder: Path) -> Launch:
        if setting == "cascade":
            raise NotApplicable("does not judge drafts")
        if setting == "pair":
            raise NotApplicable("serves one model: there is no second one to fall back to")
        workers = [_origin(upstreams.first_url)]
        options = ["--disable-circuit-breaker"]
        if setting == "replicas":
            workers.append(_origin(upstreams.second_url))
            options = ["--cb-failure-threshold", str(FAILURES_TO_EJECT)]
            options += ["--cb-timeout-duration-secs", str(EJECTED_FOR_S)]
            options += ["--request-timeout-secs", f"{REQUEST_TIMEOUT_S:.0f}"]
        program = str(self._python.with_name("vllm-router"))
        command = (program, "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin", *options)
        metrics = ("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()))
        return Launch(
            command=(*command, *metrics, "--worker-urls", *workers), ready_path="/health", model=upstreams.first_model
        )

    def check_stoppable(self) -> None:
        """It is a process."""


def _origin(url: str) -> str:
    return url.removesuffix("/v1")
