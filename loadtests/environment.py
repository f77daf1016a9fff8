"""Under which circumstances a benchmark was run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("locum", "aiohttp", "fastapi", "httptools", "msgspec", "pydantic", "uvicorn", "uvloop")


def describe_environment(system_cores: set[int], load_cores: set[int]) -> dict[str, str]:
    """Hardware, versions and commit, ready to print or to write as JSON."""
    return {
        "hardware": f"{_cpu_model()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB",
        "cores": f"system under test on {sorted(system_cores)}, backend and generator on {sorted(load_cores)}",
        "load average at start": ", ".join(f"{value:.2f}" for value in os.getloadavg()),
        "python": f"{platform.python_version()} in {sys.base_prefix}, built with {platform.python_compiler()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "tools": f"{_first_line('nginx', '-v')}; {_first_line('wrk', '-v')}",
        "commit": _commit(),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _first_line(tool: str, option: str) -> str:
    path = shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")
    if path is None:
        return f"no {tool}"
    done = subprocess.run([path, option], capture_output=True, text=True, check=False, timeout=10)
    return (done.stdout + done.stderr).strip().partition("\n")[0].partition(" Copyright")[0]


def _commit() -> str:
    """The commit of the checkout that this file is in, with a mark when files were changed; else `unknown`."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip() or "unknown"
