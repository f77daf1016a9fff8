"""The live policy of one gateway process, what it follows, and the admin API on top: made here, connected in app.py."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fastapi import FastAPI

from router.admin.administration import Administration
from router.admin.audit import Audit
from router.admin.certificates import CertificateEndpoints
from router.admin.console import Console
from router.admin.decisions import DecisionEndpoints
from router.admin.door import Door
from router.admin.history import MetricHistory
from router.admin.insight import InsightEndpoints
from router.admin.keys import AdminKeys
from router.admin.policy import PolicyEndpoints
from router.admin.quality import QualityEndpoints
from router.admin.replay import ReplayEndpoints
from router.admin.students import StudentEndpoints
from router.admin.summary import SummaryEndpoint
from router.admission import Admission
from router.config import Config
from router.documents.archive import Archive
from router.documents.engine import PolicyEngine
from router.documents.file import ConfigFile
from router.documents.live import LivePolicy
from router.generations import Generations
from router.governance.governance import Governance
from router.metrics import Metrics
from router.quality.watching import QualityWatch
from router.state.base import Store
from router.students import Students

POLICY_FOLDER = "policy"
"""In `admin.dir`: the versions."""


class Control:
    """An async context manager: from its start on the process follows the document and the file."""

    def __init__(
        self,
        config: Config,
        *,
        path: Path | None,
        students: Students,
        generations: Generations,
        store: Store,
        admission: Admission,
        metrics: Metrics,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """
        Args:
            path: of the configuration file; None: there is none to follow.
        Raises:
            ConfigError: the admin keys are wrong.
        """
        self._config = config
        self._generations = generations
        self._store = store
        self._keys = AdminKeys.from_config(config.auth, environ)
        folder = Path(config.admin.dir)
        self.engine = PolicyEngine(
            students,
            generations,
            on_install=lambda document: admission.configure(document.limits, document.tenants),
        )
        self.live = LivePolicy(
            students.version,
            engine=self.engine,
            store=store,
            shared=config.state.url != "memory://",
            archive=Archive(folder / POLICY_FOLDER),
            metrics=metrics,
        )
        audit = Audit(folder)
        door = Door(self._keys or AdminKeys({}), admission, audit, body_timeout_s=config.server.body_timeout_s)
        self._admin = Administration(door, audit, self.live)
        self._file = (
            ConfigFile(
                path, config, self.live, watch=config.admin.watch_file, report=self._admin.write_down_reload
            )
            if path is not None
            else None
        )  # fmt: skip
        self._history = MetricHistory(metrics.families)
        self._replay = ReplayEndpoints(self._admin, generations, config.log.dir)
        self._running = AsyncExitStack()

    @property
    def _is_open(self) -> bool:
        """Whether there is a key for the admin API."""
        auth = self._config.auth
        return self._keys is not None or (auth is not None and auth.keys_file is not None)

    def add_to(self, app: FastAPI, quality: QualityWatch, governance: Governance) -> None:
        """Register the admin API, if there is a key for it, and the console."""
        Console(is_open=self._is_open).add_to(app)
        if not self._is_open:
            return
        votes = governance.shadow_votes
        PolicyEndpoints(self._admin, self.engine, self._generations, self._config.log.dir, votes).add_to(app)
        InsightEndpoints(self._admin, self.engine, self._generations, self._store, self._file).add_to(app)
        StudentEndpoints(self._admin, self._config.student.registry).add_to(app)
        self._replay.add_to(app)
        QualityEndpoints(self._admin, self._config.log.dir, quality).add_to(app)
        CertificateEndpoints(self._admin, quality.certificates).add_to(app)
        SummaryEndpoint(self._admin, self._generations, self._history).add_to(app)
        show_texts = self._config.admin.show_texts
        DecisionEndpoints(self._admin, self._config.log.dir, show_texts=show_texts).add_to(app)

    def readiness(self) -> dict[str, Any]:
        """For /readyz: versions only, it is open to everybody."""
        live = self.live
        return {
            "version": live.applied.version,
            "rejected_version": live.rejected.version if live.rejected else None,
            "on_disk": live.unkept is None,
        }

    async def __aenter__(self) -> Self:
        await self._running.enter_async_context(self._replay.process)
        await self.live.start()
        self._run(self.live.follow())
        if self._is_open:
            self._run(self._history.run())
        if self._file is not None:
            self._run(self._file.run())
            await self._running.enter_async_context(self._file.hangups())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._running.aclose()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._running.push_async_callback(_cancelled, asyncio.create_task(work))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
