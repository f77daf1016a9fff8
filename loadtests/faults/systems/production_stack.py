"""The vLLM production stack's router, which is no package of its own."""

from __future__ import annotations

from pathlib import Path

from loadtests.faults.system import Launch, NotInstalled, Setting, Upstreams


class ProductionStack:
    """In the table so that its absence has a reason."""

    name = "production-stack"
    about = "the production stack's router"

    @property
    def version(self) -> str:
        return "-"

    def install(self, cache: Path) -> None:
        raise NotInstalled("its router is not on PyPI: the name `vllm-router` there is the router in Rust")

    def launch(self, setting: Setting, port: int, upstreams: Upstreams, folder: Path) -> Launch:
        raise NotImplementedError("it is never installed")

    def check_stoppable(self) -> None:
        """It is never started."""
