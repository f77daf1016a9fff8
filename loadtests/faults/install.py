"""Environments of the other gateways: one folder each below a cache, from lists of exact versions, made once.

A stamp is written last, so that an installation that was interrupted is done again; a lock keeps two commands from
installing at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from loadtests.faults.system import NotInstalled

LOCKS = Path(__file__).with_name("locks")
STAMP = ".stamp"
INSTALL_TIMEOUT_S = 1200.0
SHOWN_LINES = 3


def python_packages(cache: Path, name: str) -> Path:
    """The interpreter of an environment with exactly the packages of `locks/NAME.txt`. Raises: NotInstalled."""
    lock = LOCKS / f"{name}.txt"

    def create(folder: Path) -> None:
        venv.create(folder, clear=True, with_pip=True)
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(lock)]
        _run(command, folder)

    return _made(cache / name, [lock], create) / "bin" / "python"


def node_packages(cache: Path, name: str) -> tuple[Path, Path]:
    """Node, and a folder with the packages of `locks/NAME/package-lock.json`. Raises: NotInstalled."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotInstalled("Node.js with npm is not on this machine")
    locks = [LOCKS / name / "package.json", LOCKS / name / "package-lock.json"]

    def create(folder: Path) -> None:
        for lock in locks:
            shutil.copy(lock, folder)
        _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)

    return Path(node), _made(cache / name, locks, create)


def _made(folder: Path, locks: Sequence[Path], create: Callable[[Path], None]) -> Path:
    """The folder, created when its stamp is not that of these lists. Raises: NotInstalled."""
    folder = folder.absolute()
    content = [lock.read_bytes() for lock in locks]
    wanted = hashlib.sha256(b"\0".join([*content, str(folder).encode(), sys.version.encode()])).hexdigest()
    stamp = folder / STAMP
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            if not stamp.is_file() or stamp.read_text() != wanted:
                stamp.unlink(missing_ok=True)
                create(folder)
                stamp.write_text(wanted)
    except OSError as exc:
        raise NotInstalled(f"its environment cannot be created: {exc}") from exc
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _run(command: Sequence[str], folder: Path) -> None:
    """Raises: NotInstalled, with the end of what the installer said."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise NotInstalled(f"the installation did not end within {INSTALL_TIMEOUT_S:g} s") from exc
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise NotInstalled("; ".join(errors[-SHOWN_LINES:]) or f"the installer ended with {done.returncode}")


def locked_version(name: str, package: str) -> str:
    """The version of a package in `locks/NAME.txt`."""
    for line in (LOCKS / f"{name}.txt").read_text().splitlines():
        key, _, version = line.partition("==")
        if key == package:
            return version
    raise ValueError(f"{package} is not in locks/{name}.txt")
