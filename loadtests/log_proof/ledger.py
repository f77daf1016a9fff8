"""What a traffic folder holds: as `locum log` says, and as its bytes say to a reader that shares no code with it."""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec


class Held(msgspec.Struct):
    """How often each id stands in the files of a log."""

    decisions: Counter[str]
    judgements: Counter[str]
    damaged_lines: int
    unfinished_lines: int


async def locum_log(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and messages of a `locum log` command."""
    code, output, messages = await _locum_log(*arguments, "--json")
    return code, json.loads(output) if output.lstrip().startswith(b"{") else {}, messages


async def locum_log_text(*arguments: str) -> str:
    """The output of a `locum log` command. Raises: RuntimeError: it failed."""
    code, output, messages = await _locum_log(*arguments)
    if code:
        raise RuntimeError(f"locum log {' '.join(arguments)}: exit code {code}: {messages}")
    return output.decode()


async def _locum_log(*arguments: str) -> tuple[int, bytes, str]:
    program = str(Path(sys.executable).with_name("locum"))
    process = await asyncio.create_subprocess_exec(
        program, "log", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, messages = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None  # noqa: S101 - it has ended
    return process.returncode, output, messages.decode("utf-8", "replace").strip()


def held(folder: Path) -> Held:
    """Read every file. To be called when nothing is written or compacted any more."""
    found = Held(Counter(), Counter(), 0, 0)
    for path in sorted(folder.glob("*.seg")):
        lines = path.read_bytes().split(b"\n")
        found.unfinished_lines += bool(lines.pop())
        for line in lines:
            if line[:8] == b"%08x" % zlib.crc32(line[9:]) and line[8:9] == b" ":
                _count(line[9:], found)
            else:
                found.damaged_lines += 1
    for path in sorted(folder.rglob("*.parquet")):
        import pyarrow.parquet  # noqa: PLC0415 - comes with locum[loop], as what wrote the file

        for payload in pyarrow.parquet.read_table(path, columns=["payload"]).column("payload").to_pylist():
            _count(payload.encode() if isinstance(payload, str) else payload, found)
    return found


def _count(payload: bytes, found: Held) -> None:
    fields = json.loads(payload)
    (found.judgements if "kind" in fields else found.decisions)[fields["decision_id"]] += 1
