"""Candidates are judged as they are served: vLLM on the folder, with the recipe's own options."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from policies.durable import sha256_of
from serving.bundles import content_hash
from serving.errors import ServingError
from serving.options import VllmOptions
from serving.student import StudentProcess
from serving.supervisor import Event
from trainer.recipe import Endpoint, Recipe
from trainer.stage import Progress, StageError

STUDENT_CONCURRENCY = 16
NOT_ANSWERS = frozenset(
    {"host", "port", "second_port", "python", "api_key_env", "log_file", "served_model_name", "max_restarts",
     "startup_timeout_s", "shutdown_timeout_s"}
)  # fmt: skip
"""Options of evaluate.vllm that change neither what is answered nor how fast."""
Serve = Callable[[Path, Recipe, str, Progress], AbstractAsyncContextManager[Endpoint]]
"""(model folder, recipe, who it is, progress) -> its endpoint while the context lasts. Tests pass their own."""


@contextlib.asynccontextmanager
async def serve(model: Path, recipe: Recipe, name: str, progress: Progress) -> AsyncIterator[Endpoint]:
    """Launch vLLM on a free port (or evaluate.vllm's), wait until it is ready, stop it at the end.

    Raises: StageError: the options are wrong, or it does not start; with the end of its log.
    """

    def show(event: Event) -> None:
        progress(0, None, f"{name}: {event.message[:120]}")

    try:
        options = vllm_options(model, recipe)
        async with StudentProcess(options, observer=show) as process:
            await process.ready()
            yield Endpoint(
                base_url=process.base_url,
                model=options.served_model_name,
                concurrency=STUDENT_CONCURRENCY,
                timeout_s=recipe.teacher.timeout_s,
            )
    except ServingError as exc:
        raise StageError(f"evaluate: {name} cannot be served from {model}: {exc}") from exc


def vllm_options(model: Path, recipe: Recipe) -> VllmOptions:
    """Raises: StageError: evaluate.vllm has an unknown or wrong option."""
    given: dict[str, Any] = dict(recipe.evaluate.vllm)
    if "model" in given:
        raise StageError("evaluate.vllm: leave `model` out; the candidate is served")
    given.setdefault("port", _free_port())
    if recipe.environments.serving_python is not None:
        given.setdefault("python", recipe.environments.serving_python)
    try:
        return VllmOptions(model=str(model), **given)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        raise StageError(f"evaluate.vllm.{'.'.join(map(str, first['loc']))}: {first['msg']}") from exc


def keyed_options(recipe: Recipe) -> dict[str, Any]:
    """The options of evaluate.vllm that the answers or the speed depend on: number format, window, cores and so on."""
    return {name: value for name, value in recipe.evaluate.vllm.items() if name not in NOT_ANSWERS}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def model_sha256(model: Path) -> str:
    """The hash of a model's folder, as bundles state it. Raises: StageError: there is no such folder."""
    if not model.is_dir():
        raise StageError(f"{model}: no such folder of a model")
    files = (path for path in sorted(model.rglob("*")) if path.is_file())
    return content_hash({path.relative_to(model).as_posix(): sha256_of(path) for path in files})


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def context_window_tokens(model: Path) -> int | None:
    """What config.json says."""
    try:
        config = msgspec.json.decode((model / "config.json").read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return None
    value = config.get("max_position_embeddings")
    return value if isinstance(value, int) else None
