"""What an environment consists of: kept beside every trained model, and the cheapest test that a job runs at all."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

import msgspec

from trainer.jobs import protocol
from trainer.stage import Progress

PACKAGES = ("torch", "transformers", "trl", "peft", "llmcompressor", "compressed-tensors")


class VersionsSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    packages: tuple[str, ...] = PACKAGES


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """The installed ones among these packages, and Python's own version."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def run(spec: VersionsSpec, progress: Progress) -> protocol.Result:
    progress(1, 1, "versions")
    return {"versions": versions(spec.packages), "executable": sys.executable}


if __name__ == "__main__":
    sys.exit(protocol.main(VersionsSpec, run))
