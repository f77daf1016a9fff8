"""How close the student is to its teacher, token by token: perplexity of the teacher's answers, and KL.

Both models score the same token ids, the teacher's own prompt and answer, so both need the same tokenizer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from policies.durable import sha256_of
from trainer.calls import all_or_first_error
from trainer.evaluation.endpoint import Answer, ModelClient
from trainer.recipe import Recipe

MAX_ANSWERS = 256
"""Answers that are scored, spread evenly over the set."""
VLLM_MAX_LOGPROBS = 20

Distribution = Mapping[int, float]


class Closeness(msgspec.Struct, frozen=True, kw_only=True):
    """Over the tokens of `answers` teacher answers; a figure is None with its reason in `skipped`."""

    answers: int = 0
    tokens: int = 0
    perplexity: float | None = None
    """exp of the student's mean negative log-likelihood of the teacher's tokens."""
    teacher_perplexity: float | None = None
    """The teacher's own on them: the floor."""
    kl_nats_per_token: float | None = None
    """KL(teacher || student) on the tokens that both list, the rest as one bucket: a lower bound of the full KL."""
    top_k: int | None = None
    skipped: str = ""


def same_tokenizer(student: Path, teacher: str | None) -> str:
    """Empty when the files are equal, else why the figures are left out."""
    if teacher is None:
        return "recipe.teacher.tokenizer is not set"
    mine, theirs = student / "tokenizer.json", Path(teacher) / "tokenizer.json"
    if not mine.is_file() or not theirs.is_file():
        return "one of the models has no tokenizer.json"
    if _vocabulary(mine) != _vocabulary(theirs):
        return "student and teacher have different tokenizers"
    return ""


def tokenizer_sha256(recipe: Recipe) -> str | None:
    """Of the teacher's tokenizer.json; None where the recipe names none, or the folder has none."""
    path = Path(recipe.teacher.tokenizer) / "tokenizer.json" if recipe.teacher.tokenizer else None
    return sha256_of(path) if path is not None and path.is_file() else None


def _vocabulary(path: Path) -> str:
    """Hash of what turns text into ids; settings such as padding and truncation are no part of it."""
    content = msgspec.json.decode(path.read_bytes())
    for setting in ("padding", "truncation"):
        content.pop(setting, None)
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def scorable(answers: Mapping[str, Answer]) -> list[Answer]:
    """Answers with token ids, at most MAX_ANSWERS, evenly spread."""
    usable = [each for each in answers.values() if each.prompt_ids and each.completion_ids]
    step = max(1, math.ceil(len(usable) / MAX_ANSWERS))
    return usable[::step]


async def score(client: ModelClient, answers: Sequence[Answer], k: int) -> dict[str, list[Distribution]] | None:
    """The model's distribution at every token of each answer; None when the endpoint gives none."""
    scored: dict[str, list[Distribution]] = {}
    refused = False
    waiting = iter(answers)

    async def work() -> None:
        nonlocal refused
        for answer in waiting:
            if refused:
                return
            ids = [*(answer.prompt_ids or ()), *(answer.completion_ids or ())]
            entries = await client.prompt_logprobs(ids, k)
            if entries is None or len(entries) != len(ids):
                refused = True
                return
            scored[answer.id] = [entry or {} for entry in entries[len(answer.prompt_ids or ()) :]]

    await all_or_first_error([work() for _ in range(client.endpoint.concurrency)])
    return None if refused else scored


def compare(
    answers: Sequence[Answer],
    student: Mapping[str, Sequence[Distribution]],
    teacher: Mapping[str, Sequence[Distribution]] | None,
    k: int,
) -> Closeness:
    """Perplexities and KL over all tokens of all answers (token-weighted)."""
    own: list[float] = []
    floor: list[float] = []
    divergences: list[float] = []
    for answer in answers:
        theirs = teacher.get(answer.id) if teacher is not None else None
        for position, (token, mine) in enumerate(
            zip(answer.completion_ids or (), student.get(answer.id, ()), strict=False)
        ):
            if token not in mine:
                continue
            own.append(mine[token])
            if theirs is not None and token in theirs[position]:
                floor.append(theirs[position][token])
                divergences.append(bucketed_kl(theirs[position], mine))
    return Closeness(
        answers=len(answers),
        tokens=len(own),
        perplexity=_perplexity(own),
        teacher_perplexity=_perplexity(floor),
        kl_nats_per_token=sum(divergences) / len(divergences) if divergences else None,
        top_k=k,
        skipped="" if divergences else "the teacher's endpoint gives no prompt_logprobs; KL is left out",
    )


def bucketed_kl(teacher: Distribution, student: Distribution) -> float:
    """KL over the tokens that both list and one bucket for all others; at most the full KL (data processing)."""
    shared = teacher.keys() & student.keys()
    total = sum(math.exp(teacher[token]) * (teacher[token] - student[token]) for token in shared)
    rest_teacher = max(0.0, 1.0 - sum(math.exp(teacher[token]) for token in shared))
    rest_student = max(1e-12, 1.0 - sum(math.exp(student[token]) for token in shared))
    if rest_teacher > 1e-9:
        total += rest_teacher * math.log(rest_teacher / rest_student)
    return max(0.0, total)


def _perplexity(logprobs: Sequence[float]) -> float | None:
    return math.exp(-sum(logprobs) / len(logprobs)) if logprobs else None
