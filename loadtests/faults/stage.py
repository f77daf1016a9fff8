"""A gateway between two fake backends: what a case acts on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec

from loadtests.children import Child
from loadtests.fake.state import Hearing, Received
from loadtests.fake_backend import FakeBackend
from loadtests.faults.system import Launch, Setting, System, Upstreams
from loadtests.faults.wire import Client, Seen, request
from loadtests.systems import free_port

FIRST_WORD, SECOND_WORD = "Alpha", "Omega"
"""How every answer of the first and the second upstream begins."""
PATIENCE_S = 10.0
POLL_S = 0.02
WINDOW_TOKENS = 2**20
FIRST_MODEL, SECOND_MODEL = MODELS = ("student", "teacher")
_encode = msgspec.json.Encoder().encode
_numbers = itertools.count(1)


class Stage:
    """One running gateway. Cases ask it, look at the first upstream, and may stop or signal the process."""

    def __init__(self, system: System, launch: Launch, child: Child, origin: str, upstreams: Backends) -> None:
        self.system = system
        self.launch = launch
        self.child = child
        self.origin = origin
        self.upstreams = upstreams
        self.first = upstreams.first
        self.second = upstreams.second

    def body(self, directive: str, *, stream: bool = False, text: str | None = None, **members: Any) -> bytes:
        """A chat request whose message tells the first upstream what to do. No two are equal: nothing is cached."""
        words = f"question {next(_numbers)}: what is the weight of a ledger?" if text is None else text
        content = f"[[{directive}]] {words}" if directive else words
        fields: dict[str, Any] = {"model": self.launch.model, "messages": [{"role": "user", "content": content}]}
        if stream:
            fields["stream"] = True
        return _encode({**fields, **members})

    def request(self, body: bytes, *, headers: dict[str, str] | None = None, **options: str) -> bytes:
        """The bytes of a POST of this body."""
        return request(self.launch.path, body, {**self.launch.headers, **(headers or {})}, **options)

    def connect(self, **options: int) -> Client:
        return Client(self.origin, **options)

    async def ask(self, directive: str, *, patience_s: float = PATIENCE_S, **members: Any) -> Seen:
        """One request on a connection of its own, to its end."""
        return await self.post(self.request(self.body(directive, **members)), patience_s=patience_s)

    async def post(self, data: bytes, *, patience_s: float = PATIENCE_S) -> Seen:
        """These bytes on a connection of their own, and the answer to its end."""
        try:
            async with self.connect() as client:
                await client.send(data)
                return await client.receive(patience_s)
        except OSError:
            return Seen(end="reset", headers=[], interim=[])

    def asked(self) -> list[Received]:
        """The chat requests that the first upstream has seen since the case began, oldest first."""
        return [entry for entry in self.first.state.received if _is_chat(entry) and not _is_for_second(entry)]

    def asked_second(self) -> list[Received]:
        """The same for the second one, which the first one's address may stand for: the model tells."""
        at_first = [entry for entry in self.first.state.received if _is_chat(entry) and _is_for_second(entry)]
        return at_first + [entry for entry in self.second.state.received if _is_chat(entry)]

    def rss_bytes(self) -> int:
        return self.child.rss_bytes()

    async def happens(self, condition: Callable[[], bool], within_s: float) -> float | None:
        """Seconds until the condition is true; None when it is not in time."""
        started_s = time.monotonic()
        while not condition():
            if time.monotonic() - started_s > within_s:
                return None
            await asyncio.sleep(POLL_S)
        return time.monotonic() - started_s

    async def clean(self) -> None:
        """End what an earlier case left running upstream, and forget what was seen."""
        for backend in (self.first, self.second):
            if backend.state.in_flight:
                await backend.stop()
                await backend.start()
            backend.state.reset()

    async def is_well(self) -> bool:
        """Whether a healthy request is answered by the first upstream."""
        seen = await self.ask("", patience_s=PATIENCE_S)
        return seen.status == 200 and bool(self.asked())


class _Model(msgspec.Struct):
    model: str = ""


def _is_chat(entry: Received) -> bool:
    return entry.path.endswith("/chat/completions")


def _is_for_second(entry: Received) -> bool:
    try:
        return msgspec.json.decode(entry.body, type=_Model).model == SECOND_MODEL
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


class Backends:
    """The two upstreams, running. The first obeys the directives in messages, the second answers everybody; the second
    one's model is well at the first one's address, too, for gateways that know one address a provider."""

    def __init__(self) -> None:
        self.first = FakeBackend(
            models=MODELS,
            window_tokens=WINDOW_TOKENS,
            signature=FIRST_WORD,
            hearing=Hearing("anywhere", {SECOND_MODEL: SECOND_WORD}),
        )
        self.second = FakeBackend(
            models=MODELS, window_tokens=WINDOW_TOKENS, signature=SECOND_WORD, hearing=Hearing("never")
        )

    async def __aenter__(self) -> Backends:
        await self.first.start()
        await self.second.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.first.stop()
        await self.second.stop()

    @property
    def urls(self) -> Upstreams:
        return Upstreams(self.first.base_url, self.second.base_url)


@contextlib.asynccontextmanager
async def running(system: System, setting: Setting, backends: Backends, folder: Path) -> AsyncIterator[Stage]:
    """A gateway process in this setting; ended at the exit.

    Raises:
        ChildError: it does not come up.
        NotApplicable: it cannot be configured so.
    """
    port = free_port()
    launch = system.launch(setting, port, backends.urls, folder)
    child = Child(
        system.name,
        launch.command,
        cores=os.sched_getaffinity(0),
        ready_url=f"http://127.0.0.1:{port}{launch.ready_path}",
        log=folder / f"{setting}.log",
        ready_timeout_s=launch.ready_timeout_s,
    )
    await asyncio.to_thread(child.__enter__)  # the upstreams answer meanwhile: gateways probe them when they start
    try:
        origin = f"http://127.0.0.1:{port}"
        if launch.tells_origin:
            async with httpx.AsyncClient(trust_env=False) as client:
                origin = (await client.get(origin)).json()["origin"]
        yield Stage(system, launch, child, origin, backends)
    finally:
        await asyncio.to_thread(child.stop)
