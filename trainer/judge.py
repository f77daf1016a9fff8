"""A model that scores answers from 1 to 5, asked in the words of policies/quality/judging.py.

Scores are appended to a file as they come; a reply that is not one digit is no score.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from policies.quality.judging import parse_grade, single_prompt
from trainer.calls import Caller, Calls, Sleep, Unanswered, all_or_first_error
from trainer.recipe import Endpoint
from trainer.similarity.texts import turns_of
from trainer.stage import StageError
from trainer.tables import Example

MAX_FAILED_IN_A_ROW = 3
"""Rows that got no answer after all attempts, with none answered in between: the judge is down."""
MAX_REFUSED_IN_A_ROW = 20
"""Rows that the judge refused (400), with none answered in between: it is the endpoint, not the rows."""


class Score(msgspec.Struct, frozen=True):
    """One line of the file of scores. `score` is None when the judge gave no number: unscored."""

    decision_id: str
    score: int | None
    problem: str = ""
    final: bool = True
    """False: the judge did not answer; another run asks again."""


class JudgeDown(StageError):
    """The judge does not answer. Scores so far are kept."""


def prompt(example: Example, nonce: str) -> list[dict[str, str]]:
    """The judge's messages for one example; `nonce` must not be guessable by whoever wrote the texts."""
    turns = turns_of(msgspec.json.decode(example.messages))
    conversation = "\n\n".join(f"{turn.role}: {turn.text}" for turn in turns)
    return single_prompt(conversation, example.completion, nonce)


class ScoreFile:
    """The scores so far, on disk. What a kill tore off at the end is cut away when it is opened again."""

    def __init__(self, path: Path) -> None:
        self.scores: dict[str, int | None] = {}
        data = path.read_bytes() if path.exists() else b""
        sound = 0
        for line in data.splitlines(keepends=True):
            try:
                score = msgspec.json.decode(line, type=Score)
            except msgspec.DecodeError:
                break
            if not line.endswith(b"\n"):
                break
            self.scores[score.decision_id] = score.score
            sound += len(line)
        self._file = path.open("ab")
        self._file.truncate(sound)

    def add(self, score: Score) -> None:
        """Durable when it returns, where it is final. Raises: OSError."""
        if score.final:
            self._file.write(msgspec.json.encode(score) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self.scores[score.decision_id] = score.score

    def close(self) -> None:
        self._file.close()


class Judge:
    """Scores examples, `endpoint.concurrency` at a time."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        environ: Mapping[str, str] = os.environ,
        sleep: Sleep = asyncio.sleep,
        nonce: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """Raises: StageError: the variable that holds its key is not set."""
        self._endpoint = endpoint
        self._calls = Calls(endpoint, Caller("quality.judge", "judge"), environ=environ, sleep=sleep)
        self._nonce = nonce
        self._failed = 0
        self._refused = 0

    async def score_all(self, examples: Iterable[Example], file: ScoreFile, scored: Callable[[], None]) -> None:
        """Score every example and append it to the file. Once: the connections are closed at the end.

        Args:
            scored: called after each.
        Raises:
            JudgeDown, StageError (wrong key or model), OSError; what was scored is in the file.
        """
        waiting = iter(examples)

        async def work() -> None:
            for example in waiting:
                file.add(await self._score(example))
                scored()

        async with self._calls:
            await all_or_first_error([work() for _ in range(self._endpoint.concurrency)])

    async def _score(self, example: Example) -> Score:
        body = {
            "model": self._endpoint.model, "messages": prompt(example, self._nonce()), "temperature": 0,
            "max_tokens": 8,
        }  # fmt: skip
        try:
            return self._read(example, await self._calls.post("/chat/completions", body))
        except Unanswered as exc:
            self._failed += 1
            if self._failed >= MAX_FAILED_IN_A_ROW:
                raise JudgeDown(
                    f"quality.judge: {self._calls.url} does not answer ({exc.problem}); scores so far are kept. Start "
                    "it and run the same command again"
                ) from exc
            return Score(example.decision_id, None, exc.problem, final=False)

    def _read(self, example: Example, response: httpx.Response) -> Score:
        status = response.status_code
        self._failed = 0
        if status != 200:
            self._refused += 1
            if self._refused >= MAX_REFUSED_IN_A_ROW:
                raise StageError(
                    f"quality.judge: {self._calls.url} refuses requests with HTTP {status}: {response.text[:300]}"
                )
            return Score(example.decision_id, None, f"HTTP {status}")
        self._refused = 0
        try:
            answer: Any = msgspec.json.decode(response.content)
            text = answer["choices"][0]["message"]["content"]
            score = parse_grade(text)
        except (msgspec.DecodeError, KeyError, IndexError, TypeError):
            return Score(example.decision_id, None, "no OpenAI answer")
        return Score(example.decision_id, score, "" if score is not None else "not one digit from 1 to 5")
