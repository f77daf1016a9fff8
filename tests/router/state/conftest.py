"""A real Redis that a test can stop, freeze, restart and slow down, and one store of every kind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from router.config import StateConfig
from router.state.base import Store
from router.state.linked import LinkedStore
from router.state.memory import MemoryStore
from router.state.redis import RedisWire
from router.state.remote import SocketWire
from router.state.server import StoreServer

PATIENT_S = 20.0
"""Bound of the calls in tests that are not about time: a busy machine must not fail them."""
KINDS = ("memory", "redis", "remote")


class RedisServer:
    """A redis-server of its own on a UNIX socket and a free port, without persistence."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket),
            "--unixsocketperm", "700", "--save", "", "--appendonly", "no", "--dir", str(self.folder),
            "--logfile", "redis.log", "--daemonize", "no", *self._arguments,
        ]  # fmt: skip
        self._process = subprocess.Popen(command)
        deadline_s = time.monotonic() + 10
        while not self._accepts():
            assert time.monotonic() < deadline_s and self._process.poll() is None, "redis-server did not start"
            time.sleep(0.01)

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def stop(self) -> None:
        """Idempotent; a frozen server as well."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> str:
        """Through redis-cli, so that nothing of ours is involved."""
        command = ["redis-cli", "-s", str(self.socket), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def start_redis(*arguments: str) -> RedisServer:
    if shutil.which("redis-server") is None:
        message = "redis-server is not installed: apt-get install redis-server"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="locum-redis-"))  # a socket's path must be short
    server = RedisServer(folder, *arguments)
    server.start()
    return server


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """For tests that leave the server alone; each has its own key prefix."""
    server = start_redis()
    yield server
    server.stop()
    shutil.rmtree(server.folder)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """For tests that do something to it."""
    server = start_redis()
    yield server
    server.stop()
    shutil.rmtree(server.folder)


class Proxy:
    """Between a store and its Redis, on a UNIX socket: delays what Redis says, or cuts the connections."""

    def __init__(self, target: Path, path: Path) -> None:
        self._target, self.path = target, path
        self.delay_s = 0.0
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._pipes: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_unix_server(self._connected, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def cut(self) -> None:
        """End every connection without a word."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        answers, to_server = await asyncio.open_unix_connection(self._target)
        self._writers += [writer, to_server]
        pipes = [self._pipe(reader, to_server, delayed=False), self._pipe(answers, writer, delayed=True)]
        self._pipes += [asyncio.create_task(pipe) for pipe in pipes]

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delayed: bool) -> None:
        try:
            while data := await reader.read(65536):
                if delayed:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


class Clock:
    """Time of a store, to be moved on by hand."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def move_to(self, now_s: float) -> None:
        self.now_s = now_s


class Setup(Protocol):
    """Two stores that share their state, and their clock. One and the same for `memory`."""

    kind: str
    store: Store
    other: Store
    clock: Any


class _Setup:
    def __init__(self, kind: str, store: Store, other: Store, clock: Any) -> None:
        self.kind, self.store, self.other, self.clock = kind, store, other, clock


@pytest.fixture(params=KINDS)
async def shared(request: pytest.FixtureRequest, shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Setup]:
    """The suite of behaviours runs against each kind of store."""
    async with _opened(request.param, shared_redis, f"test-{time.monotonic_ns()}") as setup:
        yield setup


@asynccontextmanager
async def _opened(kind: str, server: RedisServer, prefix: str) -> AsyncIterator[Setup]:
    clock = Clock(time.time())
    memory = MemoryStore(max_value_bytes=4096, clock=clock)
    if kind == "memory":
        yield _Setup(kind, memory, memory, clock)
    elif kind == "redis":
        config = StateConfig(url=server.url, key_prefix=prefix, timeout_s=PATIENT_S)
        wires = [RedisWire(config, {}, clock=clock) for _ in range(2)]
        async with (
            LinkedStore(wires[0], timeout_s=PATIENT_S) as store,
            LinkedStore(wires[1], timeout_s=PATIENT_S) as other,
        ):
            yield _Setup(kind, store, other, clock)
    else:
        path = Path(tempfile.mkdtemp(prefix="locum-store-")) / "store.sock"
        async with (
            StoreServer(memory, path),
            LinkedStore(SocketWire(path), timeout_s=PATIENT_S) as store,
            LinkedStore(SocketWire(path), timeout_s=PATIENT_S) as other,
        ):
            yield _Setup(kind, store, other, clock)
        shutil.rmtree(path.parent)
