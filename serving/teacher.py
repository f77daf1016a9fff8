"""A teacher for machines without one: llama.cpp's server as an independent OpenAI-compatible API process.

In production the teacher is somebody's API, by URL and key. The demo and the tests want a real one that needs no
account: this is it. The gateway knows it only by its URL.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from serving.checks import check_port
from serving.errors import LaunchError, ModelError
from serving.launch import Command, clean_environment, resolve_python
from serving.options import Seconds
from serving.probe import HttpProbe
from serving.process import GuardedLauncher
from serving.supervisor import Observer, Runtime, Supervisor, Timing

SERVER_SCRIPT = Path(__file__).with_name("llama_server.py")
GGUF_MAGIC = b"GGUF"


class TeacherOptions(BaseModel):
    """What llama.cpp's server is started with."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(min_length=1, description="GGUF file.")
    served_model_name: str = Field("teacher", min_length=1, description="The name it is served under.")
    host: str = Field("127.0.0.1", min_length=1, description="Address that it listens on.")
    port: int = Field(8102, ge=1, le=65535, description="Port that it listens on.")
    python: str | None = Field(None, description="Interpreter that has xllamacpp; default as for vLLM.")
    api_key_env: str | None = Field(None, description="Environment variable with the key that it asks for.")
    slots: int = Field(2, ge=1, description="Requests that are generated at once; more wait.")
    context_window_tokens: int = Field(4096, ge=64, description="Prompt and output of one request together.")
    threads: int | None = Field(None, ge=1, description="Threads; default: one a core of `cpu_cores`, else all.")
    cpu_cores: tuple[int, ...] = Field((), description="Cores it is confined to; empty means all.")
    gpu_layers: int = Field(0, ge=0, description="Layers on the GPU, with a build of xllamacpp that can.")
    startup_timeout_s: Seconds = Field(300.0, description="Time from launch until it must be ready.")
    log_file: str | None = Field(None, description="Its output is appended here as well.")

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"


class TeacherProcess(Supervisor):
    """llama.cpp's server with these options; used like `StudentProcess`.

    Raises:
        ModelError: the file is missing or not GGUF.
        LaunchError: no interpreter, a missing key, or the port is taken.
    """

    def __init__(
        self,
        options: TeacherOptions,
        *,
        observer: Observer = lambda _: None,
        environ: Mapping[str, str] = os.environ,
        runtime: Runtime | None = None,
    ) -> None:
        self.options = options
        _check_gguf(Path(options.model).expanduser())
        check_port(options.host, options.port)
        command = teacher_command(options, environ)
        log_file = Path(options.log_file).expanduser() if options.log_file else None
        super().__init__(
            "teacher",
            command,
            # Its generations are cut off at SIGTERM, so that there is nothing to wait for.
            Timing(startup_timeout_s=options.startup_timeout_s, shutdown_timeout_s=0.0),
            runtime
            or Runtime(
                launcher=GuardedLauncher(log_file=log_file),
                probe=HttpProbe(
                    options.base_url, model=options.served_model_name, api_key=command.env.get("LLAMA_API_KEY")
                ),
                observer=observer,
            ),
        )

    @property
    def base_url(self) -> str:
        return self.options.base_url


def teacher_command(options: TeacherOptions, environ: Mapping[str, str] = os.environ) -> Command:
    """Arguments and environment for one launch.

    Raises:
        LaunchError: `api_key_env` names a variable that is not set, or `python` does not exist.
    """
    env = clean_environment(environ)
    if options.api_key_env is not None:
        key = environ.get(options.api_key_env)
        if not key:
            raise LaunchError(f"api_key_env: the environment variable {options.api_key_env} is not set")
        env["LLAMA_API_KEY"] = key
    arguments: dict[str, object] = {
        "--model": Path(options.model).expanduser(),
        "--alias": options.served_model_name,
        "--host": options.host,
        "--port": options.port,
        "--slots": options.slots,
        "--window-tokens": options.context_window_tokens,
        "--threads": options.threads or len(options.cpu_cores),
        "--gpu-layers": options.gpu_layers,
    }
    flags = tuple(text for flag, value in arguments.items() for text in (flag, str(value)))
    return Command(
        argv=(resolve_python(options.python), str(SERVER_SCRIPT), *flags), env=env, cpu_cores=options.cpu_cores
    )


def _check_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as exc:
        raise ModelError([f"model: {path} cannot be read ({exc.strerror}); give a GGUF file"]) from exc
    if magic != GGUF_MAGIC:
        raise ModelError([f"model: {path} is not a GGUF file"])
