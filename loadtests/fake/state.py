"""What the fake backend remembers: the last requests byte for byte, and how the exchanges ended."""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import msgspec

from loadtests.fake.answers import FIXED_CREATED_S, Answer, shape_of
from loadtests.fake.body import Body
from loadtests.fake.scenario import Heard, Scenario, parse

MAX_CACHED_SCENARIOS = 1024
MAX_CACHED_ANSWERS = 1024


class Received:
    """One request as it came off the wire, and the body that was sent back (without transfer coding)."""

    __slots__ = ("body", "headers", "method", "response", "status", "target")

    def __init__(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.status = 0
        self.response: list[bytes] = []

    @property
    def path(self) -> str:
        return self.target.partition(b"?")[0].decode("latin-1")

    def header(self, name: str) -> bytes | None:
        """The first value of a header, the name in any case."""
        wanted = name.lower().encode("latin-1")
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    def as_json(self) -> dict[str, Any]:
        return {
            "method": self.method.decode("latin-1"),
            "target": self.target.decode("latin-1"),
            "headers": [[key.decode("latin-1"), value.decode("latin-1")] for key, value in self.headers],
            "body": self.body.decode("utf-8", "replace"),
            "body_base64": base64.b64encode(self.body).decode(),
            "status": self.status,
            "response_base64": base64.b64encode(b"".join(self.response)).decode(),
        }


class Hearing(msgspec.Struct, frozen=True):
    """Which directives in messages count; those in model names always do."""

    heard: Heard = "at_start"
    steady: Mapping[str, str] = {}
    """Models that hear none all the same, with the first words of their answers."""


HEARS_AT_START = Hearing()


class BackendState:
    """Shared by all connections of one fake backend.

    An exchange counts as `completed` when its answer went out to its end, deliberate faults included (also counted
    as `faulted`), and as `aborted` when the client went away first.
    """

    def __init__(
        self,
        models: tuple[str, ...],
        window_tokens: int,
        api_key: str | None,
        keep: int,
        signature: str | None = None,
        hearing: Hearing = HEARS_AT_START,
    ) -> None:
        """`signature`: the first word of every answer."""
        self._hearing = hearing
        self.models = models
        self.waiting = 0
        """What `/metrics` says of the queue, and below of the KV cache; a test sets them."""
        self.kv_usage = 0.0
        self.window_tokens = window_tokens
        self.api_key = api_key
        self._signature = signature
        self.received: deque[Received] = deque(maxlen=keep)
        self._serial = 0
        self.connections = 0
        self._scenarios: dict[tuple[str, ...], Scenario] = {}
        self._answers: dict[tuple[object, ...], Answer] = {}
        self._delayed: set[asyncio.Future[None]] = set()
        self.reset()

    def reset(self) -> None:
        """Forget requests and counts; open exchanges stay counted as in flight."""
        self.received.clear()
        self.in_flight = getattr(self, "in_flight", 0)
        self.requests = self.completed = self.aborted = self.faulted = self.connections_total = 0
        self.by_model: Counter[str] = Counter()
        self.by_status: Counter[int] = Counter()
        self._strikes: Counter[tuple[str, ...]] = Counter()
        self._hurried = False

    async def delay(self, delay_s: float) -> None:
        """Wait so long, or until `hurry()`."""
        over = asyncio.get_running_loop().create_future()
        self._delayed.add(over)
        try:
            if not self._hurried:
                await asyncio.wait({over}, timeout=delay_s)
        finally:
            self._delayed.discard(over)
            over.cancel()

    def hurry(self) -> None:
        """From any thread: until the next `reset()` no answer is delayed any more; a test has seen enough of it."""
        self._hurried = True
        for over in tuple(self._delayed):
            over.get_loop().call_soon_threadsafe(_end, over)

    def heard(self, model: str) -> Heard:
        """Which directives in messages count for this model."""
        return "never" if model in self._hearing.steady else self._hearing.heard

    def scenario(self, names: tuple[str, ...]) -> Scenario:
        """The scenario of these directives, healthy once their `times` is used up.

        Raises:
            ScenarioError: a directive means nothing.
        """
        scenario = self._scenarios.get(names)
        if scenario is None:
            scenario = parse(*names)
            if len(self._scenarios) < MAX_CACHED_SCENARIOS:
                self._scenarios[names] = scenario
        if scenario.times is not None:
            self._strikes[names] += 1
            if self._strikes[names] > scenario.times:
                return scenario.healthy()
        return scenario

    def answer(self, body: Body, scenario: Scenario) -> Answer:
        """The bytes for this request, rendered before or now."""
        prompt_tokens = body.prompt_tokens() if scenario.prompt_tokens is None else scenario.prompt_tokens
        key = (
            scenario.source,
            body.is_chat,
            body.model,
            prompt_tokens,
            body.limit_tokens,
            body.logprobs,
            body.return_token_ids,
            body.choices,
            repr(body.tools) if scenario.calls else None,
            body.stream_options is not None and body.stream_options.include_usage,
        )
        answer = self._answers.get(key)
        if answer is None:
            answer = Answer(
                shape_of(body, scenario, prompt_tokens, self._hearing.steady.get(body.model, self._signature))
            )
            if not scenario.echo:
                if len(self._answers) >= MAX_CACHED_ANSWERS:
                    self._answers.clear()
                self._answers[key] = answer
        return answer

    def identity(self, *, chat: bool, fixed: bool) -> tuple[bytes, bytes]:
        """`id` and `created` of a new answer."""
        prefix = b"chatcmpl-" if chat else b"cmpl-"
        if fixed:
            return prefix + b"fixed", b"%d" % FIXED_CREATED_S
        self._serial += 1
        return prefix + b"%032x" % self._serial, b"%d" % time.time()

    def stats(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "in_flight": self.in_flight,
            "completed": self.completed,
            "aborted": self.aborted,
            "faulted": self.faulted,
            "connections": self.connections,
            "connections_total": self.connections_total,
            "by_model": dict(self.by_model),
            "by_status": {str(status): count for status, count in self.by_status.items()},
        }


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
