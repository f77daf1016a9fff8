"""Asking a running teacher for its distribution at every token of answers that exist: `prompt_logprobs` of vLLM.

Token ids go in and come out; text is never tokenized again. Entry 0 of the answer is null, the token itself is listed
in addition when it is not among the K most likely ones, and absent entries carry -9999.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import msgspec

from trainer.calls import Caller, Calls, Sleep, Unanswered, describe
from trainer.recipe import TeacherOptions
from trainer.rows import SENTINEL
from trainer.stage import StageError

ATTEMPTS = 6
LOWEST_FLOAT16 = -60_000.0


@dataclass(frozen=True)
class Distributions:
    """Of T tokens, K entries each, flattened row by row: most likely first, nats."""

    k: int
    ids: list[int]
    logprobs: list[float]


class Refused(Exception):
    """The endpoint refuses this one request (HTTP 400 or 422); the message is its own."""


class _Entry(msgspec.Struct):
    logprob: float


class _Choice(msgspec.Struct):
    prompt_logprobs: list[dict[int, _Entry] | None] | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


_decode = msgspec.json.Decoder(_Completion, strict=False).decode


class Teacher:
    """The teacher's endpoint. `async with` closes its connections."""

    def __init__(
        self,
        options: TeacherOptions,
        *,
        attempts: int = ATTEMPTS,
        environ: Mapping[str, str] = os.environ,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Raises: StageError: the variable that holds its key is not set."""
        self._model = options.model
        self._calls = Calls(options, Caller("teacher", "eval", attempts), environ=environ, sleep=sleep)
        self._url = self._calls.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._calls.__aexit__(kind, exc, trace)

    async def score(self, prompt_ids: Sequence[int], completion_ids: Sequence[int], k: int) -> Distributions:
        """The teacher's distribution for each token of the completion.

        Raises:
            Refused: this row cannot be scored (too long for the teacher's window, say), or not at every token.
            StageError: the endpoint is down, does not know key or model, or gives no prompt_logprobs.
        """
        ids = [*prompt_ids, *completion_ids]
        body = {"model": self._model, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": k}
        content = await self.post("/completions", body)
        try:
            entries = _decode(content).choices[0].prompt_logprobs
        except (msgspec.MsgspecError, IndexError) as exc:
            raise StageError(f"teacher: {self._url}/completions gives no OpenAI answer: {exc}") from exc
        if entries is None:
            raise StageError(
                f"teacher: {self._url} gives no prompt_logprobs, so method = 'topk' is impossible; serve the "
                "teacher with vLLM, or set train.method = 'sft' (it learns from the teacher's text)"
            )
        if len(entries) != len(ids):
            raise StageError(
                f"teacher: {len(entries)} entries came back for {len(ids)} tokens; is teacher.base_url really vLLM?"
            )
        answered = entries[len(prompt_ids) :]
        for position, entry in enumerate(answered):
            if not any(each.logprob > SENTINEL for each in (entry or {}).values()):
                raise Refused(f"the teacher gives no distribution for token {position} of the answer")
        return heads(answered, k)

    async def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        """The answer's body, after retries. Raises: Refused, StageError."""
        try:
            response = await self._calls.post(path, body)
        except Unanswered as exc:
            raise StageError(
                f"teacher: {self._url} does not answer ({exc}); what it has scored is kept: start it and run again"
            ) from exc
        if response.status_code != 200:
            raise Refused(describe(response))
        return response.content

    async def get(self, path: str) -> Any:
        """A JSON document at the endpoint, or None when there is none. `/..` leaves `/v1`."""
        root = self._url.removesuffix("/v1") if path.startswith("/..") else self._url
        return await self._calls.get(root + path.removeprefix("/.."))


def heads(entries: Sequence[Mapping[int, _Entry] | None], k: int) -> Distributions:
    """The K most likely tokens of each position, sorted; the extra entry of an unlikely actual token is dropped.

    A position with fewer than K entries (a small vocabulary) is filled with the sentinel -inf.
    """
    ids: list[int] = []
    logprobs: list[float] = []
    for entry in entries:
        ranked = sorted(((each.logprob, token) for token, each in (entry or {}).items()), reverse=True)[:k]
        ids += [token for _, token in ranked] + [0] * (k - len(ranked))
        logprobs += [value if value > LOWEST_FLOAT16 else float("-inf") for value, _ in ranked]
        logprobs += [float("-inf")] * (k - len(ranked))
    return Distributions(k, ids, logprobs)


async def largest_k(teacher: Teacher, wanted: int, ids: Sequence[int]) -> tuple[int, str]:
    """The largest K <= wanted that the endpoint accepts, by bisection, and what it said to the next one.

    Raises:
        StageError: it gives no prompt_logprobs at all.
    """
    if not (refusal := await _refusal(teacher, wanted, ids)):
        return wanted, ""
    low, high = 0, wanted
    while high - low > 1:
        middle = (low + high) // 2
        if said := await _refusal(teacher, middle, ids):
            high, refusal = middle, said
        else:
            low = middle
    if low == 0:
        raise StageError(
            f"teacher: it accepts no prompt_logprobs ({refusal}); start it with --max-logprobs {wanted}, or set "
            "train.method = 'sft'"
        )
    return low, refusal


async def _refusal(teacher: Teacher, k: int, ids: Sequence[int]) -> str:
    try:
        await teacher.score(ids[:1], ids[1:], k)
    except Refused as exc:
        return str(exc)
    return ""
