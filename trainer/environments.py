"""Running what needs torch in an environment of its own: `train` and `quantize` cannot live beside the gateway's.

The gateway's environment has no torch, and llm-compressor and trl pin versions that exclude each other. A job is
`python -m MODULE SPEC.json` with the other environment's interpreter; only the project's own packages are handed to
it, as a folder of links, so that nothing else of this environment leaks into that one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec

from serving.process import GUARD, LogTail
from trainer.environment_install import ENVIRONMENTS, EnvironmentName, ensure
from trainer.jobs.protocol import MEMORY_FIX, ErrorLine, Line, ProgressLine, ResultLine, decode_line
from trainer.stage import Progress, StageError

PACKAGES = ("policies", "serving", "trainer")
"""What a job may import of the project."""
ORPHAN_GRACE_S = 2.0
"""What a job gets to end when this process has died."""
STOP_TIMEOUT_S = 10.0
TAIL_LINES = 30
KILLED = 128 + signal.SIGKILL
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def run_job(
    environment: EnvironmentName,
    module: str,
    spec: Mapping[str, Any] | msgspec.Struct,
    *,
    python: str | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Run `python -m module SPEC.json` in that environment, created when it is missing, and return its result.

    Args:
        python: the interpreter to use (recipe.environments.*); default: LOCUM_<NAME>_PYTHON, then `.venv-<name>`.
        progress: gets what the job reports, and the installation's progress before.
    Raises:
        StageError: the environment cannot be made, or the job failed; with the end of its log.
    """
    interpreter = find_python(environment, python, progress)
    with tempfile.TemporaryDirectory(prefix="locum-job-") as scratch:
        folder = Path(scratch)
        spec_file = folder / "spec.json"
        spec_file.write_bytes(msgspec.json.encode(spec))
        packages = _link_packages(folder / "packages")
        command = [
            sys.executable, "-I", "-S", str(GUARD), str(ORPHAN_GRACE_S), "",
            interpreter, "-P", "-u", "-m", module, str(spec_file),
        ]  # fmt: skip
        return _Job(module, progress).run(command, _child_environ(packages))


def find_python(environment: EnvironmentName, python: str | None, progress: Progress) -> str:
    """The interpreter of an environment. Raises: StageError."""
    definition = ENVIRONMENTS[environment]
    for source, value in (
        (f"environments.{environment}_python", python),
        (definition.variable, os.environ.get(definition.variable)),
    ):
        if value:
            return _checked(source, value, definition.modules)
    return str(ensure(environment, progress))


def _checked(source: str, python: str, modules: tuple[str, ...]) -> str:
    code = "import importlib.util as u, sys; print([m for m in sys.argv[1:] if u.find_spec(m) is None], end='')"
    path = str(Path(python).expanduser())
    try:
        done = subprocess.run([path, "-I", "-c", code, *modules], capture_output=True, text=True, check=False)
    except OSError as exc:
        raise StageError(f"{source}: {python!r} cannot be run ({exc.strerror}); name a Python interpreter") from exc
    if done.returncode != 0 or done.stdout != "[]":
        missing = done.stdout or done.stderr.strip()[-200:]
        raise StageError(f"{source}: {python!r} lacks {missing}; install them there, or leave the setting out")
    return path


def _link_packages(folder: Path) -> Path:
    """A folder with links to the project's packages, wherever they are installed."""
    folder.mkdir()
    root = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        (folder / name).symlink_to(root / name, target_is_directory=True)
    return folder


def _child_environ(packages: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "VIRTUAL_ENV")}
    return {**inherited, **OFFLINE, "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}


class _Job:
    """One run of a job, from its start to its result."""

    def __init__(self, module: str, progress: Progress) -> None:
        self._module = module
        self._progress = progress
        self._tail = LogTail()
        self._result: dict[str, Any] | None = None
        self._error: str | None = None

    def run(self, command: list[str], environ: Mapping[str, str]) -> dict[str, Any]:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None and process.stderr is not None  # noqa: S101 - for the type checker
        with _stopped(process):
            reader = threading.Thread(target=self._read_log, args=(process.stderr,), daemon=True)
            reader.start()
            for raw in process.stdout:
                self._take(raw)
            code = process.wait()
            reader.join(timeout=STOP_TIMEOUT_S)
        if code == 0 and self._result is not None:
            return self._result
        raise StageError(self._failure(code))

    def _take(self, raw: bytes) -> None:
        try:
            line: Line = decode_line(raw)
        except msgspec.DecodeError:
            self._tail.feed(raw)
            return
        match line:
            case ProgressLine(done=done, total=total, unit=unit):
                self._progress(done, total, unit)
            case ResultLine(value=value):
                self._result = value
            case ErrorLine(message=message):
                self._error = message

    def _read_log(self, stream: IO[bytes]) -> None:
        while data := os.read(stream.fileno(), 65_536):
            self._tail.feed(data)

    def _failure(self, code: int) -> str:
        if self._error is not None:
            return self._error
        lines = self._tail.lines()[-TAIL_LINES:]
        shown = "\n".join(f"  | {line}" for line in lines) or "  | (no log)"
        if code == KILLED:
            reason = f"was killed (signal 9), most likely out of memory: {MEMORY_FIX}"
        elif any("No space left on device" in line for line in lines):
            reason = "failed: the disk is full; free space and run again, what is done is kept"
        else:
            reason = f"failed (exit code {code})" if code else "ended without a result"
        return f"the job {self._module} {reason}. The end of its log:\n{shown}"


@contextlib.contextmanager
def _stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens inside, the job does not outlive it; the guard takes its grandchildren along."""
    try:
        yield
    finally:
        if process.stdin is not None:
            process.stdin.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
