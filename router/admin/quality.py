"""`/admin/quality`, `/admin/drift`, `/admin/regression`: how good the answers are, and whether that changes.

Estimates are made from the traffic log, by the command `locum log quality` in a process of its own: reading a large log
would keep the event loop waiting.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import suppress
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from policies.quality.estimates import BY
from router.admin.administration import Administration
from router.admin.policy import answer, in_query
from router.errors import InvalidRequest, LocumError
from router.quality.drift import DriftWatch
from router.quality.watching import QualityWatch

TIMEOUT_S = 120.0
FRESH_S = 30.0
"""An answer serves the same question for so long."""
MAX_BY_CHARS = 80
_COMMAND = "import os; os.nice(10); from router.cli import main; main(prog_name='locum')"
"""Live requests come first."""
WRONG_INPUT = 2


class EstimateFailed(LocumError):
    status = 503
    type = "service_unavailable"
    code = "estimate_failed"
    retry_after_s = 30


class Estimator:
    """Runs `locum log quality`, one at a time."""

    def __init__(self, log_dir: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._log_dir = log_dir
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._last: tuple[tuple[str | None, int], float, dict[str, Any]] | None = None

    async def estimates(self, by: str | None, window_s: int) -> dict[str, Any]:
        """
        Args:
            window_s: the last so many seconds; 0: the whole log.
        Raises:
            InvalidRequest: the log cannot be read, or `by` is unknown.
            EstimateFailed.
        """
        async with self._turn:
            if (
                self._last is not None
                and self._last[0] == (by, window_s)
                and time.monotonic() < self._last[1] + FRESH_S
            ):
                return self._last[2]
            arguments = ["log", "quality", self._log_dir, "--json", *(["--by", by] if by is not None else [])]
            if window_s:
                arguments += ["--since", f"{window_s / 60:.2f}m"]
            figures: dict[str, Any] = msgspec.json.decode(await self._run(arguments))
            self._last = (by, window_s), time.monotonic(), figures
            return figures

    async def _run(self, arguments: list[str]) -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _COMMAND, *arguments, stdin=None, stdout=PIPE, stderr=PIPE
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                output, problem = await process.communicate()
        except TimeoutError as exc:
            raise EstimateFailed(f"no estimate within {self._timeout_s:g} s; give a window_s") from exc
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode == 0:
            return output
        said = problem.decode("utf-8", "replace").strip().rpartition("Error: ")[2][:500]
        if process.returncode == WRONG_INPUT:
            raise InvalidRequest(said, code="no_estimate")
        raise EstimateFailed(said or "the process ended")


class QualityEndpoints:
    """One instance a process."""

    def __init__(self, admin: Administration, log_dir: str, watch: QualityWatch) -> None:
        self._admin = admin
        self._log_dir = log_dir
        self._watch = watch
        self._estimator = Estimator(log_dir)

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/admin/quality", self.quality, methods=["GET"])
        app.add_api_route("/admin/drift", self.drift, methods=["GET"])
        app.add_api_route("/admin/drift/reference", self.restart, methods=["POST"])
        app.add_api_route("/admin/regression", self.regression, methods=["GET"])

    async def quality(self, request: Request) -> Response:
        """Estimates over the last `window_s` seconds (default: the whole log), split by `by`."""
        await self._admin.door.enter(request)
        if not self._log_dir:
            raise InvalidRequest("The gateway has no traffic log: log.dir is empty.", code="no_log")
        by = request.query_params.get("by")
        if by is not None and not (by in BY or (by.startswith("tag:") and 4 < len(by) <= MAX_BY_CHARS)):
            raise InvalidRequest("by must be route, student, reason, grader or tag:KEY.", param="by")
        window_s = in_query(request, "window_s", default=0)
        return answer(await self._estimator.estimates(by, window_s))

    async def drift(self, request: Request) -> Response:
        """The state of drift detection, of all workers and replicas together."""
        await self._admin.door.enter(request)
        return answer(self._drift().as_json())

    async def restart(self, request: Request) -> Response:
        """Forget the reference: the next requests become the new one."""
        actor = await self._admin.door.enter(request)
        drift = self._drift()
        await self._admin.can_write_down()
        drift.request_restart()
        await drift.once()
        await self._admin.write_down(actor, "drift.reference", "ok")
        return answer(drift.as_json())

    async def regression(self, request: Request) -> Response:
        """The rounds of the regression set, newest first, and how the last one compares."""
        await self._admin.door.enter(request)
        regression = self._watch.regression
        if regression is None:
            raise _Off("There is no regression set: set quality.regression.file.", code="no_regression_set")
        return answer(regression.as_json())

    def _drift(self) -> DriftWatch:
        drift = self._watch.drift
        if drift is None:
            raise _Off("Drift detection is off: quality.drift.enabled, and log.dir must be set.", code="drift_off")
        return drift


class _Off(InvalidRequest):
    status = 404
