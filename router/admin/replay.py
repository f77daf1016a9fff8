"""`/admin/replay`: what another policy document would have done with the logged requests.

The work is done by a process of its own (router/replay/worker.py), started by the first question and ended when none
came for a while: the event loop only passes lines on.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from types import TracebackType
from typing import Annotated, Any, Self

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from policies.base import Policy, Reviewer
from policies.governor import Governor
from policies.replay.options import tunable
from router.admin.administration import Administration, InvalidDocument
from router.admin.policy import answer
from router.documents.document import DocumentRejected, PolicyDocument, parse_document
from router.errors import InvalidRequest, LocumError
from router.generations import Generation, Generations

ANSWER_TIMEOUT_S = 120.0
IDLE_S = 600.0
MAX_LINE_BYTES = 64 * 2**20
MAX_VALUES = 201
NEEDED = ("numpy",)


class Sweep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    policy: str
    option: str
    values: Annotated[list[float], msgspec.Meta(min_length=1, max_length=MAX_VALUES)]


class Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body."""

    document: dict[str, Any] | None = None
    """A policy document, as in PUT /admin/policy; without it only the one in force is replayed."""
    since_s: float | None = None
    until_s: float | None = None
    tags: dict[str, str] = {}
    sweep: Sweep | None = None


class NotInstalled(LocumError):
    status = 501
    type = "not_implemented"
    code = "extra_missing"


class ReplayFailed(LocumError):
    status = 503
    type = "service_unavailable"
    code = "replay_failed"
    retry_after_s = 5


class NoTraffic(InvalidRequest):
    """The log has nothing to replay."""

    status = 409


class Reply(msgspec.Struct):
    """A line of the process."""

    result: msgspec.Raw = msgspec.Raw(b"")
    problem: str | None = None
    kind: str = ""


class ReplayProcess:
    """The process, started when it is needed. One question at a time; the others wait. `async with` ends it."""

    def __init__(self, *, timeout_s: float = ANSWER_TIMEOUT_S, idle_s: float = IDLE_S) -> None:
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def ask(self, question: dict[str, Any]) -> Reply:
        """Raises: ReplayFailed: the process ended, or took too long."""
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._exchange(msgspec.json.encode(question) + b"\n")
            except (TimeoutError, asyncio.CancelledError) as exc:
                await self._end()
                if isinstance(exc, asyncio.CancelledError):
                    raise
                raise ReplayFailed(f"no answer within {self._timeout_s:g} s; narrow it down with since_s") from exc
            finally:
                if self._process is not None:
                    self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._rest)

    async def _exchange(self, line: bytes) -> Reply:
        process = await self._running()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - both are pipes
        try:
            process.stdin.write(line)
            await process.stdin.drain()
            data = await process.stdout.readline()
        except (ConnectionError, ValueError) as exc:
            await self._end()
            raise ReplayFailed(f"the replay process failed: {exc}") from exc
        if not data:
            await self._end()
            raise ReplayFailed("The replay process ended; the gateway's log says more.")
        return msgspec.json.decode(data, type=Reply)

    async def _running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "router.replay.worker", stdin=PIPE, stdout=PIPE, limit=MAX_LINE_BYTES
            )
        return self._process

    def _rest(self) -> None:
        """Nobody asked for a while: give the memory back."""
        if self._process is not None and self._process.returncode is None and not self._turn.locked():
            self._process.kill()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if self._idle is not None:
            self._idle.cancel()
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class ReplayEndpoints:
    """The endpoints of `/admin/replay`. `async with` ends the process."""

    def __init__(self, admin: Administration, generations: Generations, log_dir: str) -> None:
        self._admin = admin
        self._generations = generations
        self._log_dir = log_dir
        self.process = ReplayProcess()

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/admin/replay/options", self.options, methods=["GET"])
        app.add_api_route("/admin/replay", self.replay, methods=["POST"])

    async def options(self, request: Request) -> Response:
        """The numbers of each policy in force that can be turned: value, range, meaning."""
        await self._admin.door.enter(request)
        generation = self._generations.current
        chain = generation.decider.chain
        seats: dict[str, Policy | Reviewer | Governor] = {policy.name: policy for policy in chain.policies}
        seats |= {reviewer.name: reviewer for reviewer in chain.reviewers}
        if chain.governors is not None:
            seats |= {governor.name: governor for governor in chain.governors.all}
        policies: list[dict[str, Any]] = []
        for table in generation.document.routing.policies:
            name = str(table["type"])
            if table.get("mode") == "shadow":  # it keeps its place, and turning it would change nothing
                policies.append({"policy": f"{name} (shadow)", "options": []})
                continue
            seat = seats.get(name)
            policies.append({"policy": name, "options": tunable(seat) if seat is not None else []})
        return answer({"version": self._admin.live.applied.version, "policies": policies})

    async def replay(self, request: Request) -> Response:
        """Evaluate a document on the log, beside the one in force, and an option at several values."""
        await self._admin.door.enter(request)
        body = await self._admin.door.read(request, Ask)
        _check_installed()
        if not self._log_dir:
            raise InvalidRequest("The gateway has no traffic log: log.dir is empty.", code="no_log")
        generation = self._generations.current
        candidate = await self._candidate(body.document, generation)
        reply = await self.process.ask(
            {
                "folder": self._log_dir,
                "active": generation.document.routing.model_dump(mode="json"),
                "candidate": candidate.routing.model_dump(mode="json") if candidate is not None else None,
                "student": _plain(generation),
                "only_student": generation.bundle_id,
                "since_s": body.since_s,
                "until_s": body.until_s,
                "tags": body.tags,
                "sweep": msgspec.to_builtins(body.sweep),
            }
        )
        return _response(reply)

    async def _candidate(self, document: dict[str, Any] | None, generation: Generation) -> PolicyDocument | None:
        """Everything that PUT checks. Raises: InvalidDocument."""
        if document is None:
            return None
        try:
            parsed = parse_document(document, defaults=generation.document)
            await self._admin.live.check(parsed)
        except DocumentRejected as exc:
            raise InvalidDocument(exc) from exc
        return parsed


def _plain(generation: Generation) -> dict[str, Any]:
    defaults = generation.equipment.defaults
    plain: dict[str, Any] = {name: getattr(defaults, name) for name in defaults.__struct_fields__}
    plain["calibrator"] = str(defaults.calibrator) if defaults.calibrator is not None else None
    return plain


def _check_installed() -> None:
    """Raises: NotInstalled."""
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise NotInstalled(f"Replay needs {name}: pip install 'locum[loop]'")


def _response(reply: Reply) -> Response:
    """Raises: LocumError."""
    if reply.result:
        return Response(bytes(reply.result), media_type="application/json", headers={"cache-control": "no-store"})
    problem = reply.problem or "unknown"
    match reply.kind:
        case "missing":
            raise NotInstalled(problem)
        case "empty":
            raise NoTraffic(problem, code="no_traffic")
        case "wrong":
            raise InvalidRequest(problem, code="invalid_replay")
        case _:
            raise ReplayFailed(problem)
