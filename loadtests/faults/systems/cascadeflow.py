"""cascadeflow's gateway: a drafter and a verifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loadtests.faults.install import locked_version, python_packages
from loadtests.faults.system import Launch, Setting, Upstreams


class Cascadeflow:
    """The first upstream drafts, the second verifies; `alone` there is one model only."""

    name = "cascadeflow"
    about = (
        "`cascadeflow-gateway --mode agent`, provider vllm; the first upstream's model drafts, the second's verifies, "
        "both at one address, since its streams use one address a provider"
    )

    @property
    def version(self) -> str:
        return locked_version("cascadeflow", "cascadeflow")

    def install(self, cache: Path) -> None:
        self._python = python_packages(cache, "cascadeflow")

    def launch(self, setting: Setting, port: int, upstreams: Upstreams, folder: Path) -> Launch:
        config = folder / f"{setting}.json"
        config.write_text(json.dumps(_config(setting, upstreams)))
        program = str(self._python.with_name("cascadeflow-gateway"))
        return Launch(
            command=(program, "--mode", "agent", "--config", str(config), "--port", str(port)),
            ready_path="/health",
            model="auto",
        )

    def check_stoppable(self) -> None:
        """It is a process."""


def _config(setting: Setting, upstreams: Upstreams) -> dict[str, Any]:
    models = [_model(upstreams.first_model, upstreams.first_url, 0.0001)]
    if setting != "alone":
        models.append(_model(upstreams.second_model, upstreams.first_url, 0.01))  # one address a provider in streams
    return {"models": models, "settings": {"enable_cascade": setting != "alone"}}


def _model(name: str, url: str, cost: float) -> dict[str, Any]:
    return {"name": name, "provider": "vllm", "base_url": url, "cost": cost}
