"""The commands that the claim runs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.claim.servers import CommandFailed, locum

CALLER = """
import asyncio, sys
from trainer.claim.servers import locum
asyncio.run(locum("log", "verify", sys.argv[1]))
"""


def test_command_gives_its_output_when_it_ends_as_expected() -> None:
    assert "locum, version" in asyncio.run(locum("--version"))


def test_command_that_ends_otherwise_is_an_error_with_its_code() -> None:
    with pytest.raises(CommandFailed, match="locum nonsense ended with 2"):
        asyncio.run(locum("nonsense"))


def test_command_ends_when_its_caller_is_killed(tmp_path: Path) -> None:
    """A segment that is a pipe keeps `locum log verify` reading until somebody ends it."""
    os.mkfifo(tmp_path / "20260101T000000-1-aaaaaaaa.seg")
    caller = subprocess.Popen([sys.executable, "-c", CALLER, str(tmp_path)])
    _wait(lambda: bool(_running(tmp_path)))
    caller.send_signal(signal.SIGTERM)
    caller.wait(30)
    _wait(lambda: not _running(tmp_path))
    assert _running(tmp_path) == []


def _running(folder: Path) -> list[str]:
    """Commands of `locum log verify` on that folder that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"verify" in words and str(folder).encode() in words:
            found.append(path.parent.name)
    return found


def _wait(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
        time.sleep(0.05)
