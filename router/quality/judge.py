"""A model as judge of two answers, asked twice: each answer is shown first once.

Judges prefer places, lengths and their own style. What can be measured of that is: whether both orders lead to the
same preference, and how the scores of the first place differ from those of the second. A grade is the mean over both
orders; where one of the two replies is no grade the pair stays ungraded.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Self

from policies.quality.judging import PAIR_RUBRIC_VERSION, PairGrades, conversation_of, pair_prompt, parse_pair, unit
from policies.record import Grade, Usage
from router.answers import meaning_of
from router.apis import CHAT
from router.backends import Backend
from router.chat import APPROX_BYTES_PER_TOKEN
from router.config import BackendConfig, ConfigError
from router.config.quality import JudgeConfig
from router.errors import BackendError
from router.metrics import Metrics
from router.quality.budget import DailyBudget
from router.quality.metrics import CallOutcome
from router.quality.pair import Pair, Verdict

MAX_REPLY_BYTES = 2**20
KIND = "judge"
REFUSALS_OF_OPTIONS = (400, 422)


Prompt = list[dict[str, str]]


class Reply(NamedTuple):
    """Of one call."""

    grades: PairGrades | None
    usage: Usage | None = None
    unpaid: bool = False


class Judge:
    """Grades pairs. `async with`: its connections live as long as the block."""

    def __init__(
        self,
        config: JudgeConfig,
        *,
        metrics: Metrics,
        budget: DailyBudget,
        environ: Mapping[str, str] = os.environ,
        nonce: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """
        Args:
            nonce: makes the marker around the judged texts, which nobody else can guess.
        Raises:
            ConfigError: the key or a file of its TLS cannot be used.
        """
        self._config = config
        self._metrics = metrics
        self._budget = budget
        self._nonce = nonce
        self._slots = asyncio.Semaphore(config.max_concurrency)
        self._backend = _backend(config, environ)
        self._modern = False
        """The endpoint has refused the older options: `max_tokens`, and a temperature."""

    async def __aenter__(self) -> Self:
        await self._backend.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._backend.__aexit__(None, None, None)

    def named(self, name: str) -> str:
        """The grader's name in records: grades by another model or rubric are not the same."""
        return f"{name}/{self._config.model}/v{PAIR_RUBRIC_VERSION}"

    async def grade(self, pair: Pair, name: str = KIND) -> Verdict:
        """Both answers, from 0 to 1; without scores when the judge gave none."""
        ungraded = Grade(grader=self.named(name))
        prompts = [self._prompt(pair, student_first=first) for first in (True, False)]
        estimated_usd = sum(map(self._estimated_usd, prompts))
        holder = f"{pair.decision_id}/{name}"
        if not await self._budget.reserve(holder, estimated_usd):
            self._count("skipped_budget")
            return Verdict(ungraded)
        spent_usd: float | None = None
        try:
            replies = [await self._ask(prompts[0])]
            if replies[0].grades is not None:  # else the second order is of no use
                replies.append(await self._ask(prompts[1]))
            spent_usd = self._spent_usd(replies)
        finally:
            await self._budget.settle(holder, estimated_usd, spent_usd)
        if spent_usd:
            self._metrics.judge_cost.inc(spent_usd)
        grades = [reply.grades for reply in replies if reply.grades is not None]
        grade = self._graded(name, *grades) if len(grades) == 2 else ungraded
        return Verdict(grade, _total([reply.usage for reply in replies]), spent_usd)

    def _graded(self, name: str, student_first: PairGrades, teacher_first: PairGrades) -> Grade:
        student = unit(student_first.first), unit(teacher_first.second)
        teacher = unit(student_first.second), unit(teacher_first.first)
        wishes = [_preferred(s, t) for s, t in zip(student, teacher, strict=True)]
        consistent = wishes[0] == wishes[1]
        self._metrics.judge_orders.labels("agree" if consistent else "disagree").inc()
        return Grade(
            grader=self.named(name),
            student=sum(student) / 2,
            teacher=sum(teacher) / 2,
            preferred=wishes[0] if consistent else "tie",
            consistent=consistent,
            student_when_first=student[0],
            student_when_second=student[1],
        )

    async def _ask(self, prompt: Prompt) -> Reply:
        """One call, counted."""
        try:
            async with asyncio.timeout(self._config.timeout_s), self._slots:
                status, data = await self._post(prompt)
                if status in REFUSALS_OF_OPTIONS and not self._modern:
                    self._modern = True
                    status, data = await self._post(prompt)
                    self._modern = status < 300  # else it was about something else
        except TimeoutError:
            return self._count("timeout")
        except BackendError:
            return self._count("error")
        meaning = meaning_of(data) if status < 300 else None
        if meaning is None:
            return self._count("error")
        grades = parse_pair(meaning.text or "")
        self._metrics.judge_calls.labels("ok" if grades else "unparsed").inc()
        if grades is not None:
            for position, grade in (("first", grades.first), ("second", grades.second)):
                self._metrics.judge_scores.labels(position).inc()
                self._metrics.judge_points.labels(position).inc(unit(grade))
        return Reply(grades, meaning.usage)

    def _count(self, outcome: CallOutcome) -> Reply:
        """Of a call without an answer. What was cut off may have been paid for; what failed was not."""
        self._metrics.judge_calls.labels(outcome).inc()
        return Reply(None, unpaid=outcome != "timeout")

    async def _post(self, prompt: Prompt) -> tuple[int, bytes]:
        """Raises: BackendError."""
        limit = {"max_completion_tokens" if self._modern else "max_tokens": self._config.max_output_tokens}
        options = limit if self._modern else {**limit, "temperature": 0}
        body = {"model": self._config.model, "messages": prompt, **options}
        content = json.dumps(body).encode()  # writes lone surrogates as escapes, which msgspec does not
        async with self._backend.call(CHAT.path, content, []) as answer:
            return answer.status, await answer.body(MAX_REPLY_BYTES)

    def _prompt(self, pair: Pair, *, student_first: bool) -> Prompt:
        first, second = (pair.student, pair.teacher) if student_first else (pair.teacher, pair.student)
        return pair_prompt(conversation_of(pair.request.get("messages") or ()), first, second, self._nonce())

    def _estimated_usd(self, prompt: Prompt) -> float:
        size = sum(len(message["content"].encode("utf-8", "replace")) for message in prompt)
        usage = Usage(
            prompt_tokens=-(-size // APPROX_BYTES_PER_TOKEN), completion_tokens=self._config.max_output_tokens
        )
        price = self._backend.price
        return price.cost_usd(usage) if price is not None else 0.0

    def _spent_usd(self, replies: list[Reply]) -> float | None:
        """None when a part is unknown."""
        price = self._backend.price
        if price is None or any(reply.usage is None and not reply.unpaid for reply in replies):
            return None
        return sum(price.cost_usd(reply.usage) for reply in replies if reply.usage is not None)


def _preferred(student: float, teacher: float) -> Literal["student", "teacher", "tie"]:
    return "tie" if student == teacher else "student" if student > teacher else "teacher"


def _total(usages: list[Usage | None]) -> Usage | None:
    known = [usage for usage in usages if usage is not None]
    if not known:
        return None
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in known),
        completion_tokens=sum(usage.completion_tokens for usage in known),
        cached_tokens=sum(usage.cached_tokens for usage in known),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in known),
    )


def _backend(config: JudgeConfig, environ: Mapping[str, str]) -> Backend:
    """Raises: ConfigError."""
    prices = {key: getattr(config, key) for key in type(config).model_fields if key.startswith("price_")}
    options = BackendConfig(
        base_url=config.base_url,
        model=config.model,
        api_key_env=config.api_key_env,
        request_timeout_s=config.timeout_s,
        max_connections=config.max_concurrency,
        tls=config.tls,
        **prices,
    )
    try:
        backend = Backend("teacher", options, environ, name="judge")
    except ConfigError as exc:
        raise ConfigError("quality.judge", exc.problems) from exc
    mark(backend, KIND)
    return backend


def mark(backend: Backend, purpose: str) -> None:
    """Have a gateway in between know what these calls are for, and learn nothing from them."""
    backend.auth_headers = {**backend.auth_headers, "x-router-purpose": purpose, "x-router-train": "none"}
