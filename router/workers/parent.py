"""The parent of several workers: binds the port, looks after the student and the shared memory, replaces workers.

Signals: TERM and INT drain everything and end; USR2 replaces the workers one after the other, each by a new one that
serves before the old one drains (a rolling restart: new code, no refused connection); HUP goes on to the workers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from policies.bundle import Bundle
from router import server
from router.app import Background
from router.config import Config, ConfigError
from router.machine import bury_requests
from router.state.memory import MemoryStore
from router.state.server import StoreServer
from router.workers.child import Child, WorkerFailed, WorkerRefused, WorkerSpec
from router.workers.control import Install
from router.workers.shared_metrics import FOLDER_VARIABLE, bury

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
KILL_AFTER_S = 10.0
"""Beyond the drain time: a worker that has not ended by then is killed."""


class Workers:
    """`run` serves until it is told to stop."""

    def __init__(
        self, config: Config, config_path: Path, background: Background | None, *, log_level: str = "info"
    ) -> None:
        self._config = config
        self._config_path = config_path
        self._background = background
        self._log_level = log_level
        self._children: list[Child] = []
        self._student: Install | None = None
        self._changing = asyncio.Lock()
        """One change at a time: a student's installation must not miss a worker that is starting."""
        self._stopping = asyncio.Event()

    async def run(self, listener: socket.socket, announce: Callable[[str], None]) -> bool:
        """Returns False when a worker could not start at all, or when one had to be killed.

        Raises: WorkerRefused: the workers cannot use the configuration.
        """
        server_config = self._config.server
        async with AsyncExitStack() as running:
            folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="locum-workers-")))
            metrics = folder / "metrics"
            metrics.mkdir(mode=0o700)
            state_path = await self._shared_memory(running, folder)
            self._spec = WorkerSpec(
                config_path=self._config_path,
                listener=listener,
                state_path=state_path,
                log_level=self._log_level,
                environ={**os.environ, FOLDER_VARIABLE: str(metrics)},
                start_timeout_s=server_config.worker_start_timeout_s,
                stop_timeout_s=server_config.shutdown_delay_s + server_config.drain_timeout_s + KILL_AFTER_S,
                on_end=partial(_bury, metrics),
            )
            self._handle_signals()
            try:
                self._children = await self._all_started(server_config.workers)
            except WorkerRefused:
                raise
            except WorkerFailed as exc:
                logger.error("%s", exc)
                return False
            watchers = [asyncio.create_task(self._keep_alive(place)) for place in range(len(self._children))]
            if self._background is not None:
                await running.enter_async_context(self._background(self.install))
            announce(server.url_of(listener, server_config))
            await self._stopping.wait()
            for watcher in watchers:
                watcher.cancel()
            return all(await asyncio.gather(*(child.stop() for child in self._children)))

    async def install(self, bundle: Bundle, folder: Path, base_url: str) -> None:
        """Let every worker use a student; returns when none uses the former one. Raises: ConfigError."""
        wanted = Install(bundle, str(folder), base_url)
        async with self._changing:
            problems = await asyncio.gather(*(child.install(wanted) for child in self._children))
            problem = next(filter(None, problems), None)
            if problem is None:
                self._student = wanted
                return
            if self._student is not None:
                await asyncio.gather(*(child.install(self._student) for child in self._children))
            raise ConfigError(f"bundle {bundle.bundle_id}", [problem])

    async def replace_all(self) -> None:
        """One after the other: the new worker serves before the old one is told to go."""
        for place in range(len(self._children)):
            try:
                async with self._changing:
                    old, self._children[place] = self._children[place], await self._started()
            except WorkerFailed as exc:
                logger.error("the restart stops here, the other workers go on as they are: %s", exc)
                return
            await old.stop()
        logger.info("all %d workers were replaced", len(self._children))

    async def _shared_memory(self, running: AsyncExitStack, folder: Path) -> Path | None:
        if self._config.state.url != "memory://":
            return None
        path = folder / "state"
        store = await running.enter_async_context(MemoryStore(max_value_bytes=self._config.cache.max_bytes))
        await running.enter_async_context(StoreServer(store, path))
        return path

    async def _all_started(self, count: int) -> list[Child]:
        """Raises: WorkerFailed: of the first one that did not start; none runs any more."""
        starting = [asyncio.create_task(self._started()) for _ in range(count)]
        try:
            return list(await asyncio.gather(*starting))
        except WorkerFailed:
            for each in starting:
                each.cancel()
            ended = await asyncio.gather(*starting, return_exceptions=True)
            await asyncio.gather(*(each.stop() for each in ended if isinstance(each, Child)))
            raise

    async def _started(self) -> Child:
        """A worker that serves, with the present student. Raises: WorkerFailed."""
        child = await Child.start(self._spec)
        if self._student is not None and (problem := await child.install(self._student)):
            await child.stop()
            raise WorkerFailed(f"a new worker cannot use the present student: {problem}")
        return child

    async def _keep_alive(self, place: int) -> None:
        """A worker that ends by itself is replaced, the sooner the longer it has lived."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            child = self._children[place]
            await child.ended()
            if child is not self._children[place]:  # it was replaced, and ended as it was told to
                continue
            logger.warning("worker %d ended with %s; starting another one", child.pid, child.exit_code)
            if child.lived_s > MAX_BACKOFF_S:
                backoff_s = FIRST_BACKOFF_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
            try:
                async with self._changing:
                    if child is self._children[place]:
                        self._children[place] = await self._started()
            except WorkerFailed as exc:
                logger.error("%s", exc)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        restarts: set[asyncio.Task[None]] = set()

        def restart() -> None:
            if not restarts:
                task = asyncio.create_task(self.replace_all())
                restarts.add(task)
                task.add_done_callback(restarts.discard)

        def pass_on() -> None:
            for child in self._children:
                child.signal(signal.SIGHUP)

        loop.add_signal_handler(signal.SIGUSR2, restart)
        loop.add_signal_handler(signal.SIGHUP, pass_on)


def _bury(folder: Path, pid: int) -> None:
    """Keep what a worker that has ended did, and end what it was doing."""
    bury(folder, pid)
    bury_requests(folder, pid)
