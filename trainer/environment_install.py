"""Creating the environments `train` and `quantize` from their hash-locked requirement lists, which ship with Locum.

`.venv-train` and `.venv-quantize` lie below the current folder. A stamp is written last, so that a half-done
installation is done again; a lock keeps two commands from installing at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.stage import Progress, StageError

EnvironmentName = Literal["train", "quantize"]
LOCKS = Path(__file__).with_name("locks")
PYTHON_VERSION = (3, 11)
STAMP = ".stamp"
ERROR_LINES = 15
SHOWN_EVERY = 10
INDEX_VARIABLE = "LOCUM_TORCH_INDEX"
"""An index with torch's CPU build, which PyPI lacks."""
BUILD_VARIABLE = "LOCUM_TORCH"
"""cpu | gpu; default: gpu where nvidia-smi works."""
RARELY_IMPORTED = r"site-packages/(.*/tests?|transformers/models)/"
"""A third of all source: packages' own tests, and hundreds of architectures of models. Compiled at first use."""
PACKAGE_LINE = re.compile(r"^(Collecting|Downloading|Using cached|Processing|Installing collected packages)\b")


@dataclass(frozen=True)
class Environment:
    name: EnvironmentName
    modules: tuple[str, ...]
    """What an interpreter must have to be it."""

    @property
    def variable(self) -> str:
        """Environment variable that names another interpreter."""
        return f"LOCUM_{self.name.upper()}_PYTHON"

    @property
    def lock(self) -> Path:
        return LOCKS / f"{self.name}.txt"


ENVIRONMENTS: Mapping[EnvironmentName, Environment] = {
    "train": Environment("train", ("torch", "transformers", "trl", "peft", "pyarrow", "msgspec", "pydantic")),
    "quantize": Environment("quantize", ("torch", "transformers", "llmcompressor", "msgspec", "pydantic")),
}


def ensure(name: EnvironmentName, progress: Progress, *, parent: Path | None = None) -> Path:
    """The interpreter of the environment below `parent` (default: the current folder), created when it is missing.

    Raises:
        StageError: it cannot be created; with the end of pip's output and the setting that names another one.
    """
    environment = ENVIRONMENTS[name]
    folder = (parent or Path.cwd()) / f".venv-{name}"
    build = _torch_build()
    wanted = _stamp(environment, folder, build)
    if _is_ready(folder, wanted):
        return folder / "bin" / "python"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not _is_ready(folder, wanted):
                _create(environment, folder, build, progress)
                (folder / STAMP).write_text(wanted, encoding="ascii")
    except OSError as exc:
        raise StageError(
            f"{folder} cannot be created: {exc}; free space, or name another in {environment.variable}"
        ) from exc
    return folder / "bin" / "python"


def _torch_build() -> Literal["cpu", "gpu"]:
    chosen = os.environ.get(BUILD_VARIABLE, "")
    if chosen in ("cpu", "gpu"):
        return "cpu" if chosen == "cpu" else "gpu"
    if chosen:
        raise StageError(f"{BUILD_VARIABLE} is {chosen!r}; it must be cpu or gpu")
    program = shutil.which("nvidia-smi")
    if program is None:
        return "cpu"
    return "gpu" if subprocess.run([program], capture_output=True, check=False).returncode == 0 else "cpu"


def _stamp(environment: Environment, folder: Path, build: str) -> str:
    """Changes with the list and with the folder: a virtual environment does not survive a move."""
    try:
        lock = environment.lock.read_bytes()
    except FileNotFoundError as exc:
        raise StageError(f"{environment.lock} is missing; install Locum again") from exc
    return hashlib.sha256(b"\0".join([lock, str(folder).encode(), build.encode()])).hexdigest()


def _is_ready(folder: Path, wanted: str) -> bool:
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text(encoding="ascii") == wanted and (folder / "bin" / "python").exists()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder itself is the lock: `venv --clear` empties it but keeps it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create(environment: Environment, folder: Path, build: str, progress: Progress) -> None:
    if sys.version_info[:2] != PYTHON_VERSION:
        raise StageError(
            f"the environment {environment.name} is locked for Python 3.11 and this is {sys.version.split()[0]}; "
            f"name an interpreter that has {', '.join(environment.modules)} in {environment.variable}"
        )
    text = environment.lock.read_text(encoding="utf-8")
    total = len(re.findall(r"^\S+==", text, re.MULTILINE))
    (folder / STAMP).unlink(missing_ok=True)
    progress(0, total, f"packages of the environment {environment.name}")
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], environment, lambda _: None)
    python = str(folder / "bin" / "python")
    seen: set[str] = set()

    def count(line: str) -> None:
        if PACKAGE_LINE.match(line):
            seen.add(line)
            progress(min(sum(each.startswith(("Collecting", "Processing")) for each in seen), total), total, line[:100])

    with tempfile.TemporaryDirectory(prefix="locum-install-") as scratch:
        command = [python, "-m", "pip", "install", "--no-compile", "--progress-bar", "off"]
        command.append("--disable-pip-version-check")
        if index := os.environ.get(INDEX_VARIABLE):
            command += ["--extra-index-url", index]
        if build == "cpu":
            command += ["--no-deps", "--require-hashes", "-r", str(environment.lock)]
        else:
            # The same versions, with torch's CUDA build and what that needs; its libraries follow the platform.
            pins = Path(scratch) / "pins.txt"
            pins.write_text("\n".join(re.findall(r"^(\S+==[^\s+]+)", text, re.MULTILINE)), encoding="utf-8")
            command += ["-r", str(pins)]
        _run(command, environment, count)
    # pip would write the byte code on one core. Some packages hold templates that are no Python: the exit code says so.
    compiling = [python, "-m", "compileall", "-q", "-j", "0", "-x", RARELY_IMPORTED, str(folder / "lib")]
    _run(compiling, environment, lambda _: None, must_succeed=False)
    progress(total, total, f"packages of the environment {environment.name}")


def _run(
    command: list[str], environment: Environment, on_line: Callable[[str], None], *, must_succeed: bool = True
) -> None:
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            on_line(line.rstrip())
    if process.returncode != 0 and must_succeed:
        kept = [line for line in lines if "is ignored: it is neither" not in line][-ERROR_LINES:]
        raise StageError(
            f"the environment {environment.name} cannot be installed. torch's CPU build is not on PyPI: "
            f"PIP_FIND_LINKS or {INDEX_VARIABLE} must lead to it; or name an interpreter that has everything in "
            f"{environment.variable}.\n" + "\n".join(f"  | {line}" for line in kept)
        )


def main(argv: list[str]) -> int:
    """`python -m trainer.environment_install train|quantize`, what deploy/install/env.sh calls."""
    if len(argv) != 1 or argv[0] not in ENVIRONMENTS:
        sys.stderr.write(f"usage: python -m trainer.environment_install {'|'.join(ENVIRONMENTS)}\n")
        return 2
    name: EnvironmentName = "train" if argv[0] == "train" else "quantize"

    def show(done: int, total: int | None, what: str) -> None:
        if total is not None and done % SHOWN_EVERY == 0:
            sys.stderr.write(f"{name}: {done} of {total}  {what}\n")

    try:
        python = ensure(name, show)
    except StageError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    sys.stderr.write(f"{name} is ready: {python}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
