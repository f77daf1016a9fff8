"""Quality: answers that are worth learning from.

Cheap checks first (length, truncation, refusals, loops, the task's own grader), then a judge on what is left, or on a
sample of it. A human's correction is not judged: it replaces the answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from policies.quality.judging import RUBRIC_VERSION
from trainer.judge import Judge, ScoreFile
from trainer.recipe import QualityOptions, Recipe
from trainer.similarity.texts import normalise
from trainer.stage import Json, StageContext, StageError, Summary
from trainer.tables import EXAMPLES, Example, Filter, count_rows, read_examples

SCORES = "scores.jsonl"
PROGRESS_ROWS = 500
LOOP_MIN_CHARS = 80
LOOP_REPEATS = 5
LOOP_SHARE = 0.5
LOOP_WINDOW_CHARS = 4_000
COMPLETE = frozenset({"stop", "eos", "end_turn", "stop_sequence"})
APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'"})
REFUSAL = re.compile(
    r"(?:i'm |i am )?(?:very |really |so |truly )?(?:sorry|apologi[sz]e|afraid)\b.{0,60}?"
    r"\b(?:can't|cannot|can not|unable|not able|won't|not comfortable)\b"
    r"|(?:unfortunately,? |however,? )?(?:i|we) (?:can't|cannot|can not|won't|will not|am not able to|'m not able to|"
    r"am unable to|'m unable to|must decline|have to decline|must refuse|refuse) "
    r"(?:to )?(?:help|assist|provide|comply|do that|fulfil|answer|support|discuss|create|generate|write|share|engage|"
    r"participate|give|offer|your|this|that)"
    r"|i'm (?:not able|unable) to (?:help|assist|provide|comply|answer|discuss|create|write)"
    r"|as an? (?:ai|artificial intelligence|language model|ai language model|ai assistant)\b.{0,60}?\b(?:can't|cannot|"
    r"can not|unable|not able|don't|do not)\b"
)
FIXES = {
    "truncated": "raise the output limit of the requests, or the teacher's window",
    "grader": "quality.choices",
    "low_score": "quality.min_score",
    "unscored": "quality.keep_unscored, or another judge",
    "prompt_too_long": "quality.max_prompt_chars",
    "completion_too_long": "quality.max_completion_chars",
}


class Quality:
    name = "quality"
    needs = ("consent",)
    version = 1

    def key(self, recipe: Recipe) -> Json:
        options = recipe.quality
        if options.grader == "one_of" and not options.choices:
            raise StageError("quality.choices: name the answers that the grader one_of accepts")
        key: dict[str, Json] = options.model_dump(mode="json", exclude={"judge"})
        key["judge"] = None if options.judge is None else [options.judge.model, RUBRIC_VERSION]
        return key

    def run(self, context: StageContext) -> Summary:
        options = context.recipe.quality
        source = context.inputs["consent"] / EXAMPLES
        asked: set[str] = set()
        scores: dict[str, int | None] = {}
        if options.judge is not None:
            asked = _asked(source, options)
            scores = _judge(context, source, asked)
        total = count_rows(source)
        with Filter(context.folder) as table:
            for done, example in enumerate(read_examples(source)):
                if done % PROGRESS_ROWS == 0:
                    context.progress(done, total, "rows")
                score = scores.get(example.decision_id)
                cause = fault(example, options) or _by_score(score, example, options)
                if cause is not None:
                    table.drop(example.decision_id, cause, "" if score is None else f"score {score}")
                else:
                    table.keep(_scored(example, score))
        counts = Counter(scores[each] for each in asked if each in scores)
        return table.summary(
            FIXES,
            judge=None if options.judge is None else options.judge.model,
            asked=len(asked),
            unscored=counts.pop(None, 0),
            scores={str(score): counts[score] for score in range(1, 6)},
        )


def fault(example: Example, options: QualityOptions) -> str | None:
    """The first thing that a check without a model finds, as a cause; None: nothing."""
    return next(_faults(example, options), None)


def _faults(example: Example, options: QualityOptions) -> Iterator[str]:
    answer = example.answer
    if not answer.strip():
        yield "empty"
    if len(example.messages) > options.max_prompt_chars:
        yield "prompt_too_long"
    if len(answer) > options.max_completion_chars:
        yield "completion_too_long"
    if options.grader == "one_of" and _label(answer) not in {_label(choice) for choice in options.choices}:
        yield "grader"
    if example.correction is not None:
        return  # a human wrote it
    if example.finish_reason == "length":
        yield "truncated"
    elif example.finish_reason is not None and example.finish_reason not in COMPLETE:
        yield "finish_reason"
    if is_refusal(answer):
        yield "refusal"
    if is_loop(answer):
        yield "repetition"


def _label(text: str) -> str:
    return normalise(text).strip(" .!\"'")


def is_refusal(answer: str) -> bool:
    """Whether the answer opens with a refusal; one that is quoted or discussed later on is none."""
    opening = normalise(answer[:400].translate(APOSTROPHES))
    return REFUSAL.match(opening) is not None


def is_loop(answer: str) -> bool:
    """Whether the end of the answer says the same again and again: the mark of a decoder that got stuck.

    The end repeats one piece (1 to 200 characters) at least LOOP_REPEATS times over LOOP_MIN_CHARS, or few different
    lines make up most of a long answer.
    """
    end = answer.rstrip()[-LOOP_WINDOW_CHARS:]
    for period in range(1, min(201, len(end) // LOOP_REPEATS + 1)):
        length = max(LOOP_REPEATS * period, LOOP_MIN_CHARS)
        if length > len(end):
            break
        tail = end[-length:]
        if tail[period:] == tail[:-period] and any(mark.isalnum() for mark in tail[:period]):
            return True
    lines = [line.strip() for line in end.splitlines() if len(line.strip()) >= 20]
    if len(lines) < 2 * LOOP_REPEATS:
        return False
    count = Counter(lines).most_common(1)[0][1]
    return count >= LOOP_REPEATS and count >= LOOP_SHARE * len(lines)


def _by_score(score: int | None, example: Example, options: QualityOptions) -> str | None:
    if score is not None:
        return "low_score" if score < options.min_score else None
    return None if options.keep_unscored or example.correction is not None else "unscored"


def _scored(example: Example, score: int | None) -> Example:
    return example if score is None else msgspec.structs.replace(example, score=float(score))


def _asked(source: Path, options: QualityOptions) -> set[str]:
    """Who is judged: those without a fault and without a correction, all or a sample by the hash of their id."""
    fit = (
        example.decision_id
        for example in read_examples(source)
        if example.correction is None and fault(example, options) is None
    )
    if options.judge_sample is None:
        return set(fit)
    return set(heapq.nsmallest(options.judge_sample, fit, key=lambda each: hashlib.sha256(each.encode()).digest()))


def _judge(context: StageContext, source: Path, asked: set[str]) -> dict[str, int | None]:
    assert context.recipe.quality.judge is not None  # noqa: S101 - the caller has looked
    file = ScoreFile(context.folder / SCORES)
    try:
        waiting = asked - file.scores.keys()
        done = len(asked) - len(waiting)

        def scored() -> None:
            nonlocal done
            done += 1
            context.progress(done, len(asked), "judged")

        if waiting:
            context.progress(done, len(asked), "judged")
            examples: Iterator[Example] = (each for each in read_examples(source) if each.decision_id in waiting)
            asyncio.run(Judge(context.recipe.quality.judge).score_all(examples, file, scored))
        return file.scores
    finally:
        file.close()


STAGE = Quality()
