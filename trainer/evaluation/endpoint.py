"""Plain OpenAI requests to a served model, and what its answers say. Marked as evaluation, so never training data."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from policies.drafts.logprobs import mean_logprob_of
from trainer.calls import ATTEMPTS, Caller, Calls, Sleep, Unanswered, describe, error_text
from trainer.recipe import Endpoint
from trainer.stage import StageError

OPTION_SETS: tuple[dict[str, Any], ...] = (
    {"logprobs": True, "return_token_ids": True},
    {"logprobs": True},
    {},
)
"""From what vLLM gives to what any endpoint gives; the first that is accepted is used."""
LENGTH_NAMES = ("max_tokens", "max_completion_tokens")
FINGERPRINT_PROBES = (
    "Write the alphabet.",
    "Continue: one, two, three,",
    "What is the capital of France?",
    "Repeat the word: lighthouse",
)


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model answered to one case."""

    id: str
    text: str | None = None
    """None: the endpoint refused the request (see `error`)."""
    mean_logprob: float | None = None
    """Over the tokens of the answer without its stop token, nats."""
    tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: str | None = None
    latency_s: float = 0.0
    error: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    completion_ids: tuple[int, ...] | None = None


class EndpointDown(StageError):
    """The endpoint does not answer. What was answered before is kept."""


class ModelClient:
    """One model behind an endpoint. `async with` closes its connections.

    `name` is who it is in messages: teacher, student, previous student.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        *,
        environ: Mapping[str, str] = os.environ,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Raises: StageError: the variable that holds its key is not set."""
        self.name = name
        self.endpoint = endpoint
        self._options: dict[str, Any] | None = None
        self._calls = Calls(endpoint, Caller(name, "eval"), environ=environ, sleep=sleep)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._calls.__aexit__(kind, exc, trace)

    async def probe(self) -> None:
        """Find out, once, which options the endpoint takes.

        Raises: StageError: none, or a wrong key or model; EndpointDown.
        """
        if self._options is not None:
            return
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "Answer with one word: ready?"}]}
        problem = ""
        for options in OPTION_SETS:
            for length in LENGTH_NAMES:
                tried = {"model": self.endpoint.model, "temperature": 0, **options, length: 4}
                response = await self._post("/chat/completions", {**tried, **body})
                if response.status_code < 400:
                    self._options = {"temperature": 0, **options, length: 0}
                    return
                problem = describe(response)
        raise StageError(f"{self.name}: {self.endpoint.base_url} refuses a plain chat request: {problem}")

    async def ask(self, case_id: str, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> Answer:
        """One answer at temperature 0. A request that the model refuses is an answer with `error`.

        Raises: EndpointDown: no answer after ATTEMPTS tries; StageError: wrong key or model.
        """
        await self.probe()
        options = {name: max_tokens if name in LENGTH_NAMES else v for name, v in (self._options or {}).items()}
        started = time.monotonic()
        response = await self._post(
            "/chat/completions", {"model": self.endpoint.model, "messages": list(messages), **options}
        )
        latency_s = time.monotonic() - started
        if response.status_code >= 400:
            return Answer(id=case_id, error=describe(response), latency_s=latency_s)
        try:
            return _answer(case_id, _json(response), latency_s)
        except (KeyError, IndexError, TypeError, AttributeError) as exc:
            return Answer(id=case_id, error=f"not an OpenAI answer: {exc!r}", latency_s=latency_s)

    async def fingerprint(self) -> str:
        """Who answers: the names that the endpoint states, and 12 digits over its answers to fixed probes.

        One probe at a time, short and at temperature 0, so that the same model gives the same answers. Changes when
        the model behind the name does. Raises: EndpointDown.
        """
        await self.probe()
        length = next(name for name in LENGTH_NAMES if name in (self._options or {}))
        stated, said = "", []
        for question in FINGERPRINT_PROBES:
            body = {"model": self.endpoint.model, "temperature": 0, length: 8}
            answer = _json(
                await self._post("/chat/completions", {**body, "messages": [{"role": "user", "content": question}]})
            )
            if isinstance(answer, dict):
                stated = " ".join(str(answer[key]) for key in ("model", "system_fingerprint") if answer.get(key))
                said.append(_said(answer))
        return f"{stated} {hashlib.sha256(msgspec.json.encode(said)).hexdigest()[:12]}".strip()

    async def prompt_logprobs(self, ids: Sequence[int], k: int) -> list[dict[int, float] | None] | None:
        """For each token its log-probability and those of the K most likely ones; entry 0 is None.

        Returns None when the endpoint does not give them.
        """
        body = {
            "model": self.endpoint.model, "prompt": list(ids), "max_tokens": 1, "temperature": 0, "prompt_logprobs": k,
        }  # fmt: skip
        response = await self._post("/completions", body)
        if response.status_code >= 400:
            return None
        try:
            entries = _json(response)["choices"][0]["prompt_logprobs"]
            return [
                None if entry is None else {int(token): float(each["logprob"]) for token, each in entry.items()}
                for entry in entries
            ]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            return None

    async def continuation_logprob(self, prefix: str, continuation: str) -> float:
        """Sum of the log-probabilities of the continuation's tokens after the prefix, nats.

        Raises: StageError: the endpoint does not echo prompts with their logprobs (vLLM does).
        """
        body = {
            "model": self.endpoint.model, "prompt": prefix + continuation, "max_tokens": 1, "temperature": 0,
            "echo": True, "logprobs": 1,
        }  # fmt: skip
        response = await self._post("/completions", body)
        if response.status_code >= 400:
            raise StageError(f"{self.name}: the general suites need echoed logprobs: {error_text(response)}")
        try:
            logprobs = _json(response)["choices"][0]["logprobs"]
            end = len(prefix) + len(continuation)
            # A token that begins before the continuation (its blank) belongs to it when it ends within.
            starts = [*logprobs["text_offset"], end]
            return sum_of(
                value
                for start, stop, value in zip(starts, starts[1:], logprobs["token_logprobs"], strict=False)
                if value is not None and start < end and stop > len(prefix)
            )
        except (KeyError, IndexError, TypeError) as exc:
            raise StageError(f"{self.name}: the general suites need echoed logprobs, which it does not give") from exc

    async def _post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """Raises: EndpointDown; StageError for a wrong key or model."""
        try:
            return await self._calls.post(path, body)
        except Unanswered as exc:
            raise EndpointDown(
                f"{self.name}: {self.endpoint.base_url} does not answer after {ATTEMPTS} tries ({exc}); what it "
                "answered before is kept. Start it and run the same command again"
            ) from exc


def sum_of(values: Any) -> float:
    return float(sum(values))


def _json(response: httpx.Response) -> Any:
    try:
        return msgspec.json.decode(response.content)
    except msgspec.DecodeError:
        return None


def _said(answer: Mapping[str, Any]) -> str:
    choices = answer.get("choices")
    message = choices[0].get("message") if isinstance(choices, list) and choices else None
    return str(message.get("content")) if isinstance(message, dict) else ""


def _answer(case_id: str, answer: Any, latency_s: float) -> Answer:
    choice = answer["choices"][0]
    text: str = choice["message"].get("content") or ""
    usage = answer.get("usage") or {}
    finish_reason = choice.get("finish_reason")
    entries = (choice.get("logprobs") or {}).get("content") or []
    prompt_ids, completion_ids = answer.get("prompt_token_ids"), choice.get("token_ids")
    return Answer(
        id=case_id,
        text=text,
        mean_logprob=mean_logprob_of(entries, text, finish_reason),
        tokens=int(usage.get("completion_tokens") or len(entries)),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        finish_reason=finish_reason,
        latency_s=latency_s,
        prompt_ids=tuple(prompt_ids) if prompt_ids else None,
        completion_ids=tuple(completion_ids) if completion_ids else None,
    )
