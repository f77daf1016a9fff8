"""The student: vLLM launched and supervised as a child process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from serving.checks import ModelFacts, check_model, check_port
from serving.launch import VllmBuild, detect_build, resolve_python, vllm_command
from serving.options import VllmOptions
from serving.probe import HttpProbe
from serving.process import GuardedLauncher
from serving.supervisor import Observer, Runtime, Supervisor, Timing


class StudentProcess(Supervisor):
    """vLLM with these options. Building it checks everything that can be checked without starting vLLM.

        async with StudentProcess(options) as student:
            await student.ready()      # or go on and let the gateway fall back to the teacher meanwhile
            ...
            failure = await student.failure()

    Raises:
        ModelError: the folder cannot be served as the options ask.
        LaunchError: no vLLM, a missing key, or the port is taken.
    """

    def __init__(
        self,
        options: VllmOptions,
        *,
        observer: Observer = lambda _: None,
        environ: Mapping[str, str] = os.environ,
        detect: Callable[[str], VllmBuild] = detect_build,
        timing: Timing | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        """`timing` and `runtime` default to what the options say and to real processes."""
        self.options = options
        self.model: ModelFacts = check_model(options)
        check_port(options.host, options.port)
        self.build = detect(resolve_python(options.python))
        command = vllm_command(options, self.build, environ)
        super().__init__(
            "student",
            command,
            timing or timing_of(options),
            runtime or runtime_of(options, observer, command.env.get("VLLM_API_KEY")),
        )

    @property
    def base_url(self) -> str:
        return self.options.base_url


def timing_of(options: VllmOptions) -> Timing:
    return Timing(
        startup_timeout_s=options.startup_timeout_s,
        shutdown_timeout_s=options.shutdown_timeout_s,
        hang_timeout_s=options.hang_timeout_s,
        max_restarts=options.max_restarts,
        restart_window_s=options.restart_window_s,
        restart_backoff_s=options.restart_backoff_s,
        restart_backoff_max_s=options.restart_backoff_max_s,
    )


def runtime_of(options: VllmOptions, observer: Observer, api_key: str | None) -> Runtime:
    log_file = Path(options.log_file).expanduser() if options.log_file else None
    return Runtime(
        launcher=GuardedLauncher(log_file=log_file),
        probe=HttpProbe(options.base_url, model=options.served_model_name, api_key=api_key),
        observer=observer,
    )
