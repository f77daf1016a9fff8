"""TensorZero's gateway as its Python package embeds it."""

from __future__ import annotations

from pathlib import Path

from loadtests.faults.install import locked_version, python_packages
from loadtests.faults.system import (
    FIRST_TOKEN_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    Launch,
    NotApplicable,
    Setting,
    Upstreams,
)

LAUNCHER = Path(__file__).with_name("tensorzero_embedded.py")
_TOML = """\
[gateway]
observability.enabled = false

[models.gateway]
routing = [{routing}]
"""
_PROVIDER = """
[models.gateway.providers.{name}]
type = "openai"
model_name = "{model}"
api_base = "{url}"
api_key_location = "none"
timeouts = {{ non_streaming.total_ms = {total_ms}, streaming.ttft_ms = {first_ms} }}
"""


class TensorZero:
    """The gateway inside a Python process: the same Rust code as its container, which is not to be had here."""

    name = "TensorZero"
    about = (
        "the embedded gateway of the Python package, observability off; provider timeouts set, the second upstream "
        "behind the first in the model's `routing`"
    )

    @property
    def version(self) -> str:
        return f"{locked_version('tensorzero', 'tensorzero')} (embedded)"

    def install(self, cache: Path) -> None:
        self._python = python_packages(cache, "tensorzero")

    def launch(self, setting: Setting, port: int, upstreams: Upstreams, folder: Path) -> Launch:
        if setting == "cascade":
            raise NotApplicable("does not judge drafts")
        providers = [("first", upstreams.first_model, upstreams.first_url)]
        if setting != "alone":
            providers.append(("second", upstreams.second_model, upstreams.second_url))
        config = folder / f"{setting}.toml"
        times = {"total_ms": round(REQUEST_TIMEOUT_S * 1000), "first_ms": round(FIRST_TOKEN_TIMEOUT_S * 1000)}
        config.write_text(
            _TOML.format(routing=", ".join(f'"{name}"' for name, *_ in providers))
            + "".join(_PROVIDER.format(name=name, model=model, url=url, **times) for name, model, url in providers)
        )
        return Launch(
            command=(str(self._python), "-P", str(LAUNCHER), str(config), str(port)),
            ready_path="/",
            model="tensorzero::model_name::gateway",
            path="/openai/v1/chat/completions",
            tells_origin=True,
        )

    def check_stoppable(self) -> None:
        raise NotApplicable("embedded in the application's process: it has none of its own that could be stopped")
