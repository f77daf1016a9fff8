"""Other gateways for the benchmark, each as fast as its makers' own options make it: one model, no retries, little log.

They are installed as for the fault table, see `loadtests/faults`; there they get time limits and fallbacks, here none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from loadtests.faults.install import LOCKS, locked_version, python_packages
from loadtests.faults.system import Launch, NotInstalled
from loadtests.faults.systems import tensorzero
from loadtests.systems import free_port

MODEL = "student"
"""As the fake backend calls it."""
READY_TIMEOUT_S = 180.0
LITELLM_KEY = "sk-bench-0123456789abcdef"


class Peer(Protocol):
    """A gateway to compare with."""

    name: str
    about: str

    @property
    def version(self) -> str: ...

    def install(self, cache: Path) -> None:
        """Make it available; quick when it is. Raises: NotInstalled."""

    def launch(self, port: int, upstream_url: str, folder: Path) -> Launch:
        """Write its configuration to `folder`.

        Args:
            upstream_url: up to and including `/v1`.
        """


class TensorZero:
    """The Rust gateway inside a Python process, which does nothing else."""

    name = "tensorzero"
    about = "embedded gateway, observability off"

    @property
    def version(self) -> str:
        return locked_version("tensorzero", "tensorzero")

    def install(self, cache: Path) -> None:
        self._python = python_packages(cache, "tensorzero")

    def launch(self, port: int, upstream_url: str, folder: Path) -> Launch:
        config = folder / "tensorzero.toml"
        config.write_text(
            "[gateway]\nobservability.enabled = false\n\n"
            '[models.bench]\nrouting = ["backend"]\n\n[models.bench.providers.backend]\ntype = "openai"\n'
            f'model_name = "{MODEL}"\napi_base = "{upstream_url}"\napi_key_location = "none"\n'
        )
        return Launch(
            command=(str(self._python), "-P", str(tensorzero.LAUNCHER), str(config), str(port)),
            ready_path="/",
            model="tensorzero::model_name::bench",
            path="/openai/v1/chat/completions",
            ready_timeout_s=READY_TIMEOUT_S,
            tells_origin=True,
        )


class VllmRouter:
    """vLLM's router in Rust."""

    name = "vllm-router"
    about = "one worker, round robin, no circuit breaker"

    @property
    def version(self) -> str:
        return locked_version("vllm-router", "vllm-router")

    def install(self, cache: Path) -> None:
        self._program = python_packages(cache, "vllm-router").with_name("vllm-router")

    def launch(self, port: int, upstream_url: str, folder: Path) -> Launch:
        options = ("--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin", "--disable-circuit-breaker")
        metrics = ("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()))
        return Launch(
            command=(str(self._program), *options, *metrics, "--worker-urls", upstream_url.removesuffix("/v1")),
            ready_path="/health",
            model=MODEL,
            ready_timeout_s=READY_TIMEOUT_S,
        )


class ProductionStack:
    """The vLLM production stack's router. It is no package: it runs from a checkout."""

    name = "production-stack"
    about = "static discovery, one backend, round robin"

    def __init__(self, source: Path | None) -> None:
        """
        Args:
            source: folder that holds the package `vllm_router`; None: there is none.
        """
        self._source = source

    @property
    def version(self) -> str:
        return "unknown" if self._source is None else f"checkout {self._source.absolute().parent.name}"

    def install(self, cache: Path) -> None:
        if self._source is None:
            raise NotInstalled("it is on no package index: give --production-stack the folder src of a checkout")
        if not (self._source / "vllm_router" / "app.py").is_file():
            raise NotInstalled(f"there is no vllm_router/app.py in {self._source}")
        if not (LOCKS / "production-stack.txt").is_file():
            raise NotInstalled(f"its dependencies are not locked: there is no {LOCKS / 'production-stack.txt'}")
        self._python = python_packages(cache, "production-stack")

    def launch(self, port: int, upstream_url: str, folder: Path) -> Launch:
        assert self._source is not None  # noqa: S101 - `install` has refused it
        backend = ("--static-backends", upstream_url.removesuffix("/v1"), "--static-models", MODEL)
        options = ("--service-discovery", "static", "--routing-logic", "roundrobin", "--log-level", "warning")
        return Launch(
            command=(
                *("env", f"PYTHONPATH={self._source.absolute()}", str(self._python), "-m", "vllm_router.app"),
                *("--host", "127.0.0.1", "--port", str(port), *backend, *options),
            ),
            ready_path="/health",
            model=MODEL,
            ready_timeout_s=READY_TIMEOUT_S,
        )


class LiteLLM:
    """LiteLLM's proxy."""

    name = "litellm"
    about = "proxy with one worker, a master key, no database, log level ERROR"

    @property
    def version(self) -> str:
        return locked_version("litellm", "litellm")

    def install(self, cache: Path) -> None:
        self._program = python_packages(cache, "litellm").with_name("litellm")

    def launch(self, port: int, upstream_url: str, folder: Path) -> Launch:
        config = folder / "litellm.yaml"
        model = {"model": f"openai/{MODEL}", "api_base": upstream_url, "api_key": "none"}
        content = {
            "model_list": [{"model_name": "bench", "litellm_params": model}],
            "litellm_settings": {"telemetry": False},
            "router_settings": {"num_retries": 0, "disable_cooldowns": True},
            "general_settings": {"master_key": LITELLM_KEY},
        }
        config.write_text(json.dumps(content))  # JSON is YAML
        environment = ("LITELLM_LOCAL_MODEL_COST_MAP=True", "LITELLM_LOG=ERROR", "NO_DOCS=True")
        address = ("--host", "127.0.0.1", "--port", str(port))
        return Launch(
            command=("env", *environment, str(self._program), "--config", str(config), *address),
            ready_path="/health/liveliness",
            model="bench",
            headers={"authorization": f"Bearer {LITELLM_KEY}"},
            ready_timeout_s=READY_TIMEOUT_S,
        )


def all_peers(production_stack: Path | None) -> list[Peer]:
    """In the order of the table."""
    return [VllmRouter(), TensorZero(), ProductionStack(production_stack), LiteLLM()]


PEER_NAMES = tuple(peer.name for peer in all_peers(None))
