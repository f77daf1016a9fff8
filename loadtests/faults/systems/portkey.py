"""Portkey's open-source gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loadtests.faults.install import LOCKS, node_packages
from loadtests.faults.system import REQUEST_TIMEOUT_S, Launch, NotApplicable, Setting, Upstreams

PACKAGE = "@portkey-ai/gateway"
SERVER = Path("node_modules") / PACKAGE / "build" / "start-server.js"


class Portkey:
    """It takes its configuration from a request header."""

    name = "Portkey"
    about = (
        "`start-server.js --headless`; provider openai with a custom host, `request_timeout` set, the second upstream "
        "by a `fallback` strategy, all in the request's `x-portkey-config`"
    )

    @property
    def version(self) -> str:
        version: str = json.loads((LOCKS / "portkey" / "package.json").read_text())["dependencies"][PACKAGE]
        return version

    def install(self, cache: Path) -> None:
        self._node, self._folder = node_packages(cache, "portkey")

    def launch(self, setting: Setting, port: int, upstreams: Upstreams, folder: Path) -> Launch:
        if setting == "cascade":
            raise NotApplicable("does not judge drafts")
        first = _target(upstreams.first_url, upstreams.first_model)
        if setting != "alone":
            second = _target(upstreams.second_url, upstreams.second_model)
            config: dict[str, Any] = {"strategy": {"mode": "fallback"}, "targets": [first, second]}
        else:
            config = first
        return Launch(
            command=(str(self._node), str(self._folder / SERVER), f"--port={port}", "--headless"),
            ready_path="/",
            model=upstreams.first_model,
            headers={"x-portkey-config": json.dumps(config), "authorization": "Bearer none"},
        )

    def check_stoppable(self) -> None:
        """It is a process."""


def _target(url: str, model: str) -> dict[str, Any]:
    return {
        "provider": "openai",
        "custom_host": url,
        "api_key": "none",
        "override_params": {"model": model},
        "request_timeout": round(REQUEST_TIMEOUT_S * 1000),
    }
