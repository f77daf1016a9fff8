"""`/admin/status`, `/admin/explain`, `/admin/audit`: what runs, why a request goes where it goes, who changed what."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from router.admin.administration import Administration, InvalidDocument, VersionNotFound
from router.admin.policy import answer, as_number, in_query
from router.chat import ChatRequest
from router.documents.document import DocumentRejected
from router.documents.engine import PolicyEngine
from router.documents.file import ConfigFile
from router.documents.live import UnknownVersion
from router.generations import Generation, Generations
from router.state.base import Store

DEFAULT_ENTRIES = 100
MAX_ENTRIES = 10_000


class InsightEndpoints:
    """Endpoints that change nothing."""

    def __init__(
        self,
        admin: Administration,
        engine: PolicyEngine,
        generations: Generations,
        store: Store,
        file: ConfigFile | None,
    ) -> None:
        """
        Args:
            file: None where the gateway was not started from a file.
        """
        self._admin = admin
        self._engine = engine
        self._generations = generations
        self._store = store
        self._file = file
        self._started_s = time.time()

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/admin/status", self.status, methods=["GET"])
        app.add_api_route("/admin/audit", self.audit, methods=["GET"])
        app.add_api_route("/admin/explain", self.explain, methods=["POST"])

    async def status(self, request: Request) -> Response:
        """Of this process: the policy in force, versions that it could not use, the student, the store, the file."""
        await self._admin.door.enter(request)
        live, generation = self._admin.live, self._generations.current
        rejected = live.rejected
        file = self._file.last if self._file is not None else None
        return answer(
            {
                "process": {"pid": os.getpid(), "started_s": self._started_s},
                "policy": {
                    **live.applied.summary(),
                    "name": generation.decider.version,
                    "rejected": rejected._asdict() if rejected else None,
                    "not_on_disk": live.unkept,
                },
                "student": {"bundle": generation.bundle_id, "requests": generation.users.count},
                "state": {"failure": self._store.failure},
                "file": {"last_reload": msgspec.to_builtins(file)},
            }
        )

    async def audit(self, request: Request) -> Response:
        """The last lines (`limit` of them), newest first, and whether the chain holds."""
        await self._admin.door.enter(request)
        limit = min(in_query(request, "limit", default=DEFAULT_ENTRIES), MAX_ENTRIES)
        entries, problem = await asyncio.to_thread(self._admin.audit.entries)
        newest = entries[::-1][:limit]
        return answer(
            {
                "entries": msgspec.to_builtins(newest),
                "total": len(entries),
                "chain": "broken" if problem else "intact",
                "problem": problem,
            }
        )

    async def explain(self, request: Request) -> Response:
        """Decide on a chat request as for a tenant (`tenant`) and a version (`version`), without answering it."""
        await self._admin.door.enter(request)
        tenant = request.query_params.get("tenant", "default")[:256]
        body = await self._admin.door.body(request)
        chat = ChatRequest.parse(body, list(request.scope["headers"]))
        generation = await self._generation(request)
        evaluation = await generation.decider.decide(chat, tenant=tenant, every_vote=True)
        explained: dict[str, Any] = msgspec.to_builtins(
            {"decision": evaluation.decision, "votes": evaluation.votes, "student": generation.bundle_id}
        )
        return answer(explained)

    async def _generation(self, request: Request) -> Generation:
        """The one in force, or what an earlier version would make of the same student. Raises: InvalidRequest."""
        text = request.query_params.get("version")
        if text is None:
            return self._generations.current
        try:
            return await self._engine.built(await self._admin.live.get(as_number(text, "version")))
        except UnknownVersion as exc:
            raise VersionNotFound(exc) from exc
        except DocumentRejected as exc:
            raise InvalidDocument(exc) from exc
