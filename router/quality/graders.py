"""Graders that need no judge: comparison with a label or with the teacher's answer, patterns, schemas, embeddings."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from msgspec.structs import replace

from policies.drafts.json_schema import UnsupportedSchema, is_valid
from policies.grading import Grader as ComparisonKind
from policies.grading import is_right, last_number
from policies.quality.regrading import BY_LABEL, BY_TEACHER, comparison, scored
from policies.record import Grade, Usage
from router.config import ConfigError
from router.config.quality import GraderConfig
from router.draft_answers import wanted_schema
from router.encoder import Encoder
from router.quality.judge import Judge
from router.quality.pair import SILENT, Grader, Pair, Verdict

MAX_CHARS = 200_000
"""Of an answer that a pattern or a schema looks at; a longer one stays ungraded."""
EMBEDDING_BUDGET_S = 60.0
"""Nobody waits for a grade; the encoder may be slow."""


class ComparisonGrader:
    """`exact`, `numeric`, `contains`: with a label, else with the teacher's answer. The latter is agreement: there the
    teacher is right by definition, and the grader's name says so."""

    def __init__(self, kind: ComparisonKind, name: str, tolerance: float) -> None:
        self._kind = kind
        self._by_label = comparison(name, kind, tolerance, BY_LABEL)
        self._by_teacher = comparison(name, kind, tolerance, BY_TEACHER)
        self._is_right = partial(is_right, grader=kind, tolerance=tolerance)

    async def grade(self, pair: Pair) -> Verdict:
        if pair.label is not None:
            return Verdict(scored(self._by_label, pair.student, pair.teacher, pair.label))
        if self._kind == "contains" or (self._kind == "numeric" and last_number(pair.teacher) is None):
            return Verdict(self._by_label)  # the teacher's answer as a whole is no label; one may come
        agreed = float(self._is_right(pair.student, pair.teacher))
        return Verdict(replace(self._by_teacher, student=agreed, teacher=1.0))


class EmbeddingGrader:
    """Cosine of sentence embeddings with a label, else with the teacher's answer."""

    def __init__(self, encoder: Encoder, name: str) -> None:
        self._encoder = encoder
        self._name = name

    async def grade(self, pair: Pair) -> Verdict:
        reference = pair.teacher if pair.label is None else pair.label
        cosines = await self._encoder.similarities(reference, [pair.student, pair.teacher], EMBEDDING_BUDGET_S)
        name = f"{self._name}/{'teacher' if pair.label is None else 'label'}"
        if cosines is None:
            return Verdict(Grade(grader=name))
        student, teacher = (max(0.0, cosine) for cosine in cosines)
        return Verdict(Grade(grader=name, student=student, teacher=1.0 if pair.label is None else teacher))


class PatternGrader:
    """Whether a regular expression of the operator's is found in an answer."""

    def __init__(self, pattern: str, name: str) -> None:
        self._found = re.compile(pattern).search
        self._name = name

    async def grade(self, pair: Pair) -> Verdict:
        return await asyncio.to_thread(_each, pair, self._name, lambda answer: self._found(answer) is not None)


class SchemaGrader:
    """Whether an answer is JSON that follows a schema: a configured one, else that of the request."""

    def __init__(self, schema: object | None, name: str) -> None:
        """
        Args:
            schema: None: the request's.
        """
        self._schema = schema
        self._name = name

    async def grade(self, pair: Pair) -> Verdict:
        schema = wanted_schema(pair.request) if self._schema is None else self._schema
        if schema is None:
            return SILENT
        try:
            return await asyncio.to_thread(_each, pair, self._name, partial(_follows, schema=schema))
        except UnsupportedSchema:
            return Verdict(Grade(grader=self._name))


def load_schema(config: GraderConfig) -> object | None:
    """The configured schema. Raises: ConfigError."""
    if config.schema_file is None:
        return None
    try:
        schema: object = json.loads(Path(config.schema_file).read_text(encoding="utf-8"))
        is_valid({}, schema)
    except (OSError, ValueError, RecursionError) as exc:  # UnsupportedSchema is a ValueError
        raise ConfigError("quality.graders.schema_file", [f"{config.schema_file} cannot be used: {exc}"]) from exc
    return schema


def _follows(answer: str, schema: object) -> bool:
    """Raises: UnsupportedSchema."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return is_valid(value, schema)


def _each(pair: Pair, name: str, is_good: Callable[[str], bool]) -> Verdict:
    """Both answers by themselves; blocking."""
    student, teacher = (
        float(is_good(answer)) if len(answer) <= MAX_CHARS else None for answer in (pair.student, pair.teacher)
    )
    return Verdict(Grade(grader=name, student=student, teacher=teacher))


class Graded(NamedTuple):
    """What all graders together think of a pair."""

    grades: tuple[Grade, ...] = ()
    usage: Usage | None = None
    """Of the judge."""
    cost_usd: float | None = None


NOT_GRADED = Graded()


class Graders:
    """The configured graders, chosen by tag. `async with`: the judge's connections live as long as the block."""

    def __init__(self, configs: Sequence[GraderConfig], *, judge: Judge | None, encoder: Encoder | None) -> None:
        """
        Args:
            judge, encoder: None: no grader needs it.
        Raises:
            ConfigError: a schema cannot be used.
        """
        self._judge = judge
        self._encoder = encoder
        self._graders = [(config.tags, self._grader(config)) for config in configs]

    async def __aenter__(self) -> Self:
        if self._judge is not None:
            await self._judge.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._judge is not None:
            await self._judge.__aexit__()
        if self._encoder is not None:
            await self._encoder.close()

    async def grade(self, pair: Pair) -> Graded:
        """By every grader whose tags the request has, in order."""
        verdicts = [
            await grader.grade(pair)
            for tags, grader in self._graders
            if all(pair.tags.get(key) == value for key, value in tags.items())
        ]
        costs = [verdict.cost_usd for verdict in verdicts if verdict.cost_usd is not None]
        return Graded(
            tuple(verdict.grade for verdict in verdicts if verdict.grade is not None),
            next((verdict.usage for verdict in verdicts if verdict.usage is not None), None),
            sum(costs) if costs else None,
        )

    def _grader(self, config: GraderConfig) -> Grader:
        name = config.name or config.type
        match config.type:
            case "judge":
                assert self._judge is not None  # noqa: S101 - the configuration was checked
                return NamedJudge(self._judge, name)
            case "embedding":
                assert self._encoder is not None  # noqa: S101 - it was loaded for this
                return EmbeddingGrader(self._encoder, name)
            case "regex":
                return PatternGrader(config.pattern or "", name)
            case "json_schema":
                return SchemaGrader(load_schema(config), name)
            case kind:
                return ComparisonGrader(kind, name, config.tolerance)


class NamedJudge:
    """The judge under a grader's name."""

    def __init__(self, judge: Judge, name: str) -> None:
        self._judge = judge
        self._name = name

    def grade(self, pair: Pair) -> Awaitable[Verdict]:
        return self._judge.grade(pair, self._name)
