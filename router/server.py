"""Runs the application on a socket: bind, serve, drain on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from router.config import ServerConfig

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 75
"""Idle client connections live longer than clients keep them, so that they, not we, close first."""


class CannotListen(OSError):
    """The address is taken or not ours."""


def bind(config: ServerConfig) -> socket.socket:
    """A listening socket. Raises: CannotListen, with the key to change."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as exc:
        listener.close()
        raise CannotListen(
            f"server.port: cannot listen on {config.host}:{config.port}: {exc.strerror}; "
            "stop the other process or choose another port"
        ) from exc
    listener.listen(2048)
    return listener


def serve(app: FastAPI, config: ServerConfig, listener: socket.socket, announce: Callable[[str], None]) -> bool:
    """Serve until SIGTERM or SIGINT, then finish running requests within `drain_timeout_s`.

    Returns:
        False when the application could not start.
    """
    uvloop = sys.platform != "win32"
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            loop="uvloop" if uvloop else "asyncio",
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=2048,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(config.drain_timeout_s)),
        )
    )
    host, port = listener.getsockname()[:2]

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.02)
        if server.started:
            announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await serving

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(run())
    return server.started
