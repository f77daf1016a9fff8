"""LiteLLM's proxy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loadtests.faults.install import locked_version, python_packages
from loadtests.faults.system import (
    EJECTED_FOR_S,
    FAILURES_TO_EJECT,
    FIRST_TOKEN_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    Launch,
    NotApplicable,
    Setting,
    Upstreams,
)

MASTER_KEY = "sk-faults-0123456789abcdef"
ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MASTER_KEY": MASTER_KEY,
    "LITELLM_LOG": "ERROR",
    "NO_DOCS": "True",
}


class LiteLLM:
    """One worker, no database; the second upstream is a fallback of the first model."""

    name = "LiteLLM"
    about = (
        "proxy with one worker, no database, a master key; `timeout` and `stream_timeout` set, `num_retries: 0`, the "
        "second upstream under `fallbacks`; `disable_cooldowns` except where the upstream stays dead"
    )

    @property
    def version(self) -> str:
        return locked_version("litellm", "litellm")

    def install(self, cache: Path) -> None:
        self._python = python_packages(cache, "litellm")

    def launch(self, setting: Setting, port: int, upstreams: Upstreams, folder: Path) -> Launch:
        if setting == "cascade":
            raise NotApplicable("does not judge drafts")
        config = folder / f"{setting}.yaml"
        config.write_text(json.dumps(_config(setting, upstreams)))  # JSON is YAML
        environment = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        program = str(self._python.with_name("litellm"))
        return Launch(
            command=("env", *environment, program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)),
            ready_path="/health/liveliness",
            ready_timeout_s=180.0,
            model="first",
            headers={"authorization": f"Bearer {MASTER_KEY}"},
        )

    def check_stoppable(self) -> None:
        """It is a process."""


def _config(setting: Setting, upstreams: Upstreams) -> dict[str, Any]:
    router: dict[str, Any] = {"num_retries": 0, "disable_cooldowns": setting != "replicas"}
    if setting == "replicas":
        router |= {"allowed_fails": FAILURES_TO_EJECT - 1, "cooldown_time": EJECTED_FOR_S}
    if setting != "alone":
        router["fallbacks"] = [{"first": ["second"]}]
    return {
        "model_list": [
            _model("first", upstreams.first_model, upstreams.first_url),
            _model("second", upstreams.second_model, upstreams.second_url),
        ],
        "litellm_settings": {"request_timeout": REQUEST_TIMEOUT_S, "telemetry": False},
        "router_settings": router,
        "general_settings": {"master_key": MASTER_KEY},
    }


def _model(name: str, model: str, url: str) -> dict[str, Any]:
    parameters = {
        "model": f"openai/{model}",
        "api_base": url,
        "api_key": "none",
        "timeout": REQUEST_TIMEOUT_S,
        "stream_timeout": FIRST_TOKEN_TIMEOUT_S,
    }
    return {"model_name": name, "litellm_params": parameters}
