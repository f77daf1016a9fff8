"""Asks the served candidate, its teacher and the student before it, one after the other, and keeps every answer.

One model is served at a time, so that all are measured on the same cores. What was answered is on disk at once
(`answers/`); a run that was killed asks only for the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from serving.bundles import read_bundle
from serving.errors import ServingError
from serving.registry import Registry
from serving.store import default_cache
from serving.wheels import Fetcher
from trainer.evaluation import closeness, safety, speed, suites
from trainer.evaluation.closeness import Closeness, Distribution
from trainer.evaluation.dataset import Case, shared_system_prompt
from trainer.evaluation.endpoint import Answer, ModelClient
from trainer.evaluation.journal import Journal, Prompt, collect
from trainer.evaluation.served import Serve, model_sha256
from trainer.evaluation.speed import Speed
from trainer.evaluation.suites import Question, SuiteResult, SuiteSource
from trainer.recipe import Recipe
from trainer.stage import StageContext, StageError


@dataclass(frozen=True)
class Candidate:
    """A model that is served for its evaluation."""

    role: str
    """`student`, `previous` or `base`."""
    name: str
    model: Path
    sha256: str


@dataclass
class Observed:
    """What one model said and did; empty where it was not asked."""

    name: str
    sha256: str = ""
    task: dict[str, Answer] = field(default_factory=dict)
    safety: dict[str, Answer] = field(default_factory=dict)
    suites: list[SuiteResult] = field(default_factory=list)
    speed: Speed | None = None
    fingerprint: str = ""
    """Of the teacher: what its endpoint states and answers to fixed probes."""


@dataclass
class Observations:
    student: Observed
    teacher: Observed
    previous: Observed | None
    base: Observed | None
    closeness: Closeness
    safety_sets: Mapping[str, Sequence[safety.SafetyCase]]


@dataclass(frozen=True)
class Outside:
    """What an evaluation takes from the world; tests pass their own."""

    serve: Serve
    cache: Path | None = None
    fetcher: Fetcher | None = None


class Runner:
    """One evaluation. `observe` may be called again after it was interrupted."""

    def __init__(self, context: StageContext, cases: Sequence[Case], model: Path, outside: Outside) -> None:
        self._recipe: Recipe = context.recipe
        self._progress = context.progress
        self._folder = context.folder / "answers"
        self._outside = outside
        self._cases = cases
        self._student = Candidate("student", "student", model, model_sha256(model))
        self._task = [Prompt(case.id, case.prompt()) for case in cases]
        self._sets = {name: safety.load_set(name) for name in safety.SETS} if context.recipe.evaluate.safety else {}
        self._safety = safety.prompts(self._sets, shared_system_prompt(cases))
        self._suites: dict[SuiteSource, list[Question]] = {}

    async def observe(self) -> Observations:
        """Raises: StageError: a model cannot be served or asked; what was answered is kept."""
        previous = previous_student(self._recipe)
        if self._recipe.evaluate.general_cases:
            self._suites = suites.load_suites(
                self._recipe.evaluate.general_cases,
                lambda line: self._progress(0, None, line),
                cache=self._outside.cache,
                fetcher=self._outside.fetcher,
            )
        skipped = closeness.same_tokenizer(self._student.model, self._recipe.teacher.tokenizer)
        teacher, scored = await self._ask_teacher(skipped)
        student, close = await self._ask_student(teacher, scored, skipped)
        before = base = None
        if previous is not None and previous.sha256 == self._student.sha256:
            before = Observed(previous.name, previous.sha256, student.task, student.safety, student.suites)
        elif previous is not None:
            before, _ = await self._ask_candidate(previous)
        elif self._suites:
            base = await self._ask_base()
        return Observations(student, teacher, before, base, close, self._sets)

    async def _ask_teacher(self, skipped: str) -> tuple[Observed, dict[str, list[Distribution]] | None]:
        endpoint = self._recipe.teacher
        seen = Observed("teacher")
        async with ModelClient(endpoint, "teacher") as client:
            seen.fingerprint = await client.fingerprint()
            # Another port is no other teacher; another model under its name is one.
            identity = f"{endpoint.model} {endpoint.version} {seen.fingerprint}"
            await self._ask(client, seen, "teacher", identity)
            if _is_local(endpoint.base_url):
                seen.speed = await self._measure(client, "teacher")
            scored = None
            if not skipped:
                self._progress(0, None, "teacher: scoring its own answers")
                scored = await closeness.score(client, closeness.scorable(seen.task), self._k)
        return seen, scored

    async def _ask_student(
        self, teacher: Observed, scored: Mapping[str, Sequence[Distribution]] | None, skipped: str
    ) -> tuple[Observed, Closeness]:
        return await self._ask_candidate(self._student, teacher=teacher, scored=scored, skipped=skipped)

    async def _ask_candidate(
        self,
        candidate: Candidate,
        *,
        teacher: Observed | None = None,
        scored: Mapping[str, Sequence[Distribution]] | None = None,
        skipped: str = "",
    ) -> tuple[Observed, Closeness]:
        seen, close = Observed(candidate.name, candidate.sha256), Closeness(skipped=skipped)
        async with (
            self._outside.serve(candidate.model, self._recipe, candidate.name, self._progress) as endpoint,
            ModelClient(endpoint, candidate.name) as client,
        ):
            await self._ask(client, seen, candidate.role, candidate.sha256)
            if teacher is not None:
                seen.speed = await self._measure(client, candidate.name)
                if not skipped:
                    close = await self._closeness(client, teacher, scored)
            seen.suites = await self._run_suites(client, candidate)
        return seen, close

    async def _ask(self, client: ModelClient, seen: Observed, role: str, identity: str) -> None:
        """The task and the safety sets, from the journals as far as they go."""
        tokens = self._recipe.evaluate.max_output_tokens
        for part, prompts, limit in (
            ("task", self._task, tokens),
            ("safety", self._safety, safety.MAX_OUTPUT_TOKENS),
        ):
            content = hashlib.sha256(msgspec.json.encode([prompts, limit])).hexdigest()[:16]
            with Journal(self._folder / f"{role}-{part}.jsonl", f"{identity} {content}") as journal:
                answers = await collect(
                    client,
                    prompts,
                    journal,
                    max_tokens=limit,
                    concurrency=client.endpoint.concurrency,
                    progress=lambda done, total, part=part: self._progress(  # type: ignore[misc]
                        done, total, f"{client.name}: {part} answers"
                    ),
                )
            if part == "task":
                seen.task = answers
            else:
                seen.safety = answers
        if all(answer.text is None for answer in seen.task.values()):
            first = next(iter(seen.task.values()))
            raise StageError(f"{client.name}: every request was refused: {first.error}")

    async def _measure(self, client: ModelClient, name: str) -> Speed | None:
        options = self._recipe.evaluate
        self._progress(0, None, f"{name}: measuring its speed")
        return await speed.measure(
            client,
            self._task,
            options.speed_requests,
            max_tokens=options.max_output_tokens,
            usd_per_hour=options.machine_usd_per_hour,
        )

    async def _closeness(
        self, client: ModelClient, teacher: Observed, scored: Mapping[str, Sequence[Distribution]] | None
    ) -> Closeness:
        answers = closeness.scorable(teacher.task)
        if not answers:
            return Closeness(skipped="the teacher's endpoint gives no token ids")
        self._progress(0, None, "student: scoring the teacher's answers")
        own = await closeness.score(client, answers, self._k)
        if own is None:
            return Closeness(skipped="the student's endpoint gives no prompt_logprobs")
        return closeness.compare(answers, own, scored, self._k)

    @property
    def _k(self) -> int:
        return min(self._recipe.teacher.top_k, closeness.VLLM_MAX_LOGPROBS)

    async def _run_suites(self, client: ModelClient, candidate: Candidate) -> list[SuiteResult]:
        if not self._suites:
            return []
        path = self._suite_cache(candidate.sha256)
        if (cached := suites.read_cached(path)) is not None:
            return cached
        results = [
            await suites.run_suite(
                client,
                source,
                questions,
                lambda done, total, source=source: self._progress(  # type: ignore[misc]
                    done, total, f"{client.name}: {source.name} questions"
                ),
            )
            for source, questions in self._suites.items()
        ]
        suites.write_cached(path, results)
        return results

    async def _ask_base(self) -> Observed:
        """Only the general suites, and only when this base was never measured before."""
        folder = Path(self._recipe.student.base_model)
        base = Candidate("base", f"base model {folder.name}", folder, model_sha256(folder))
        if (cached := suites.read_cached(self._suite_cache(base.sha256))) is not None:
            return Observed(base.name, base.sha256, suites=cached)
        async with (
            self._outside.serve(base.model, self._recipe, base.name, self._progress) as endpoint,
            ModelClient(endpoint, base.name) as client,
        ):
            return Observed(base.name, base.sha256, suites=await self._run_suites(client, base))

    def _suite_cache(self, sha256: str) -> Path:
        return suites.cached_path(sha256, self._recipe.evaluate.general_cases, self._outside.cache or default_cache())


def previous_student(recipe: Recipe) -> Candidate | None:
    """The bundle that the recipe names, else the registry's current one, else None.

    Raises: StageError: it is named, or is current, and cannot be read.
    """
    try:
        if recipe.evaluate.previous_student is not None:
            folder = Path(recipe.evaluate.previous_student)
            bundle = read_bundle(folder)
        else:
            registry = Registry(Path(recipe.bundle.registry))
            current = registry.current()
            if current is None:
                return None
            folder, bundle = registry.folder(current.bundle_id), current
    except ServingError as exc:
        raise StageError(f"evaluate.previous_student: {exc}") from exc
    return Candidate("previous", f"previous student {bundle.bundle_id}", folder / bundle.model, bundle.model_sha256)


def _is_local(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def observe(context: StageContext, cases: Sequence[Case], model: Path, outside: Outside) -> Observations:
    """`Runner.observe` from a stage, which is no coroutine."""
    return asyncio.run(Runner(context, cases, model, outside).observe())


async def answer_prompts(
    context: StageContext, prompts: Sequence[Prompt], model: Path, outside: Outside
) -> tuple[dict[str, Answer], str]:
    """The candidate's answers to other prompts (recalibration), and the hash of its model."""
    sha256, options = model_sha256(model), context.recipe.evaluate
    content = hashlib.sha256(msgspec.json.encode([prompts, options.max_output_tokens])).hexdigest()[:16]
    with Journal(context.folder / "answers.jsonl", f"{sha256} {content}") as journal:
        if all(prompt.id in journal.answers for prompt in prompts):
            return {prompt.id: journal.answers[prompt.id] for prompt in prompts}, sha256
        async with (
            outside.serve(model, context.recipe, "student", context.progress) as served,
            ModelClient(served, "student") as client,
        ):
            answers = await collect(
                client,
                prompts,
                journal,
                max_tokens=options.max_output_tokens,
                concurrency=served.concurrency,
                progress=lambda done, total: context.progress(done, total, "labelled answers"),
            )
    return answers, sha256


def plain(value: Any) -> Any:
    """A struct as JSON values; None stays None."""
    return None if value is None else msgspec.to_builtins(value)
