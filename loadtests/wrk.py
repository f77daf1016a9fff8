"""Drives `wrk`, the closed-loop generator that is light enough to share a core with the fake backend."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from loadtests.client import Target
from loadtests.scenarios import Call

MAX_BODIES = 1_024
START_GRACE_S = 30.0
_REPORT = "wrk-report "

_SCRIPT = """
local target = "{path}"
local requests, turn = {{}}, 0
function init(args)
  for line in io.lines("{bodies}") do
    requests[#requests + 1] = wrk.format("POST", target, {{{headers}}}, line)
  end
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{report}{{"requests":%d,"duration_us":%d,"bytes":%d,"failed":%d,"p50_us":%.1f,"p90_us":%.1f,"p99_us":%.1f}}\\n',
    summary.requests, summary.duration, summary.bytes,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99)))
end
"""


class WrkError(RuntimeError):
    """wrk failed; the message holds what it said."""


class WrkResult(msgspec.Struct, frozen=True):
    """What wrk measured, in its own units."""

    requests: int
    duration_us: int
    bytes: int
    failed: int
    p50_us: float
    p90_us: float
    p99_us: float

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.duration_us * 1e6


def run_wrk(
    target: Target,
    calls: Sequence[Call],
    *,
    connections: int,
    seconds: float,
    folder: Path,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> WrkResult:
    """One closed-loop run with one thread, on the cores of this process.

    The requests are formatted before the clock starts. wrk takes whole seconds: `seconds` is rounded up.

    Raises:
        WrkError: wrk ended with an error or without a report.
    """
    bodies, script = folder / "wrk-bodies.jsonl", folder / "wrk.lua"
    bodies.write_bytes(b"".join(call.body + b"\n" for call in calls[:MAX_BODIES]))
    more = {"content-type": "application/json", **headers}
    table = ", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in more.items())
    script.write_text(_SCRIPT.format(path=target.path + calls[0].path, bodies=bodies, report=_REPORT, headers=table))
    whole_seconds = max(1, round(seconds + 0.499))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{whole_seconds}s", "--timeout", "30s", "-s", str(script)]
    try:
        output = subprocess.run(
            [*command, target.origin],
            capture_output=True,
            text=True,
            timeout=whole_seconds + START_GRACE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise WrkError(f"wrk did not end after {whole_seconds} s") from exc
    for line in output.stdout.splitlines():
        if line.startswith(_REPORT):
            return msgspec.json.decode(line.removeprefix(_REPORT), type=WrkResult)
    raise WrkError(f"wrk ended with {output.returncode} and no report: {output.stderr or output.stdout}")
