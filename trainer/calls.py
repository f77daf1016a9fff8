"""Requests to a model's endpoint: one client, one set of retries, one reading of what an error says.

The judge, the re-scoring of the teacher and the evaluation differ in what they ask and in what an answer means to them;
what is worth another try, how long to wait, and what no try can mend is the same for all of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from trainer.recipe import Endpoint
from trainer.stage import StageError

ATTEMPTS = 5
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 20.0
CONNECT_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 256
"""How many requests run at once is decided by who sends them."""
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
FATAL = frozenset({401, 403, 404})
"""A wrong key or model: nothing that is asked of this endpoint will be answered."""
ERROR_CHARS = 400

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class Caller:
    """Who asks, in the words of its messages and of the gateway that may stand in between."""

    name: str
    """The table of the recipe, or what a served model is called: `quality.judge`, `teacher`, `previous student`."""
    purpose: str
    """Sent as x-router-purpose, so that a gateway in between does not take these calls for traffic."""
    attempts: int = ATTEMPTS


class Unanswered(Exception):
    """No answer after all attempts. `problem` is the last one, without any text of the endpoint."""

    def __init__(self, problem: str, said: str = "") -> None:
        super().__init__(f"{problem}: {said}" if said else problem)
        self.problem = problem


class Calls:
    """One endpoint. `async with` closes its connections."""

    def __init__(
        self,
        endpoint: Endpoint,
        caller: Caller,
        *,
        environ: Mapping[str, str] = os.environ,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Raises: StageError: the variable that holds its key is not set."""
        headers = {"x-router-purpose": caller.purpose, "x-router-train": "none", "content-type": "application/json"}
        if endpoint.api_key_env is not None:
            if not (key := environ.get(endpoint.api_key_env)):
                raise StageError(f"{caller.name}.api_key_env: the variable {endpoint.api_key_env} is not set")
            headers["authorization"] = f"Bearer {key}"
        self.url = endpoint.base_url.rstrip("/")
        self._model = endpoint.model
        self._caller = caller
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(endpoint.timeout_s, connect=min(CONNECT_TIMEOUT_S, endpoint.timeout_s)),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=2.0),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """The first answer that is not worth another try, whatever its status.

        Raises: Unanswered; StageError: a wrong key or model.
        """
        problem, backoff_s = Unanswered(""), FIRST_BACKOFF_S
        for attempt in range(self._caller.attempts):
            if attempt:
                await self._sleep(backoff_s)
                backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
            try:
                response = await self._http.post(f"{self.url}{path}", content=msgspec.json.encode(body))
            except httpx.HTTPError as exc:
                problem = Unanswered(f"{type(exc).__name__} {exc}".strip())
                continue
            if response.status_code in FATAL:
                raise StageError(
                    f"{self._caller.name}: {self.url} answers {describe(response)}; check base_url, model "
                    f"({self._model}) and api_key_env"
                )
            if response.status_code not in RETRIED:
                return response
            problem = Unanswered(f"HTTP {response.status_code}", error_text(response))
        raise problem

    async def get(self, url: str) -> Any:
        """The JSON document there, or None when there is none."""
        try:
            response = await self._http.get(url)
            return msgspec.json.decode(response.content) if response.status_code == 200 else None
        except (httpx.HTTPError, msgspec.DecodeError):
            return None


def describe(response: httpx.Response) -> str:
    """`HTTP 400: max_tokens is too large`."""
    return f"HTTP {response.status_code}: {error_text(response)}"


def error_text(response: httpx.Response) -> str:
    """The message of OpenAI's error JSON, else the body, at most ERROR_CHARS of it."""
    try:
        answer = msgspec.json.decode(response.content)
    except msgspec.DecodeError:
        return response.text[:ERROR_CHARS]
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    return str(error.get("message", error) if isinstance(error, dict) else error)[:ERROR_CHARS]


async def all_or_first_error(jobs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run them together; the first error cancels the others and is raised as it is, not in a group."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
