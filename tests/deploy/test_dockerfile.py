"""The gateway's image: what can be said about it without building it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "Dockerfile").read_text()
LINES = [line for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
LAST_STAGE = LINES[max(index for index, line in enumerate(LINES) if line.startswith("FROM")) :]


def test_process_is_nobody_in_particular() -> None:
    users = [line.split()[1] for line in LAST_STAGE if line.startswith("USER")]
    assert users
    for part in users[-1].split(":"):
        assert part.isdigit() and int(part) >= 10_000  # Kubernetes' runAsNonRoot can only check numbers
    assert "sudo" not in TEXT


def test_packages_come_by_hash_and_build_tools_stay_behind() -> None:
    installs = re.findall(r"pip install [^&]*", TEXT.replace("\\\n", " "))
    assert installs
    for install in installs:
        assert "--require-hashes -r deploy/locks/" in install or "--no-index" in install
    assert not [line for line in LAST_STAGE if line.startswith("RUN") and "pip" in line]


def test_health_and_signal_are_declared() -> None:
    assert any(line.startswith("HEALTHCHECK") for line in LAST_STAGE)
    assert "STOPSIGNAL SIGTERM" in LAST_STAGE


def test_every_package_of_the_wheel_and_nothing_else_is_sent_to_the_build() -> None:
    packages = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    )
    ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().split()
    assert "*" in ignore
    sent = {line[1:] for line in ignore if line.startswith("!")}
    assert sent == packages | {"pyproject.toml", "README.md", "deploy/locks/core.txt", "deploy/locks/build.txt"}
    for package in packages:
        assert f"COPY {package} {package}" in LINES
