"""One worker: a whole gateway on the parent's listening socket, whose student the parent looks after."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import click
import msgspec

from router import logs, server
from router.app import Install as Installer
from router.app import build_app
from router.config import ConfigError
from router.config_file import load
from router.workers.control import Install, Installed, Line, Ready, refuse

WRONG_INPUT = 2


class ParentLink:
    """Follows the parent's messages for as long as the gateway serves; the parent's end is the worker's."""

    def __init__(self, end: socket.socket, install: Installer) -> None:
        self._end = end
        self._install = install

    async def __aenter__(self) -> Self:
        self._line = await Line.over(self._end)
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._line.close()

    async def _follow(self) -> None:
        with suppress(ConnectionError):  # the parent may be gone before this worker was ready
            await self._line.tell(Ready())
        while (line := await self._line.next()) is not None:
            message = msgspec.json.decode(line, type=Install)
            problem = None
            try:
                await self._install(message.bundle, message.path, message.base_url)
            except ConfigError as exc:
                problem = str(exc)
            with suppress(ConnectionError):
                await self._line.tell(Installed(problem))
        os.kill(os.getpid(), signal.SIGTERM)  # nobody would restart or stop this process any more


@click.command()
@click.argument("config_path", type=click.Path(path_type=Path))
@click.option("--listen-fd", type=int, required=True)
@click.option("--control-fd", type=int, required=True)
@click.option("--state", "state_path", type=click.Path(path_type=Path), help="Socket of the parent's store.")
@click.option("--log-level", default="info")
def worker(config_path: Path, listen_fd: int, control_fd: int, state_path: Path | None, log_level: str) -> None:
    """Started by `locum serve` with `server.workers` > 1, and by nobody else."""
    listener, control = socket.socket(fileno=listen_fd), socket.socket(fileno=control_fd)
    try:
        config = load(config_path)
        logs.log_to_stderr(log_level, config.server.log_format)
        app = build_app(
            config,
            background=lambda install: ParentLink(control, install),
            path=config_path,
            state_path=state_path,
        )
    except ConfigError as exc:
        refuse(control, str(exc))
        raise SystemExit(WRONG_INPUT) from exc
    if not server.serve(app, config.server, listener, lambda _: None):
        raise SystemExit(1)


if __name__ == "__main__":
    worker()
