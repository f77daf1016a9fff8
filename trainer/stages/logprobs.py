"""Stage `logprobs`: examples to token ids, and for `topk` the teacher's distribution at every token.

Parts of PART_ROWS rows are written as they are scored, each whole or not at all: a run that was killed scores only
what is missing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from policies.durable import sha256_of
from trainer.calls import all_or_first_error
from trainer.environments import run_job
from trainer.evaluation.closeness import same_tokenizer
from trainer.jobs.spec import EncodeSpec
from trainer.recipe import Recipe
from trainer.rescoring import Refused, Teacher, largest_k
from trainer.rows import token_schema
from trainer.stage import Json, Progress, StageContext, StageError, Summary
from trainer.tables import TableWriter, count_rows

TABLES = ("train", "validation")
PART_ROWS = 256
PARTS = "parts"
K_PROBE_TOKENS = 8
"""Of the first row: enough to ask which K the teacher takes, and never too long for its window."""
TEACHER_PROMPT = "teacher_prompt_ids"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
REFUSED = "teacher_refused"
Encode = Callable[[EncodeSpec, Recipe, Progress], Mapping[str, Any]]


class LogprobsStage:
    name = "logprobs"
    needs: tuple[str, ...] = ("split",)
    version = 3

    def __init__(
        self,
        encode: Encode | None = None,
        teacher: Callable[[Recipe], Teacher] = lambda recipe: Teacher(recipe.teacher),
    ) -> None:
        """Tests pass their own encoder and teacher."""
        self._encode = encode or _encode_in_job
        self._teacher = teacher

    def key(self, recipe: Recipe) -> Json:
        """Raises: StageError: the base model has no tokenizer, or `topk` cannot be used with this teacher."""
        key: dict[str, Json] = {
            "method": recipe.train.method,
            "max_tokens": recipe.train.max_tokens,
            "student_tokenizer": tokenizer_digest(Path(recipe.student.base_model), "student.base_model"),
        }
        if recipe.train.method == "topk":
            check_tokenizers(recipe)
            assert recipe.teacher.tokenizer is not None  # noqa: S101 - check_tokenizers has seen it
            key |= {
                "teacher": [recipe.teacher.model, recipe.teacher.version],
                "teacher_tokenizer": tokenizer_digest(Path(recipe.teacher.tokenizer), "teacher.tokenizer"),
                "top_k": recipe.teacher.top_k,
            }
        return key

    def run(self, context: StageContext) -> Summary:
        recipe, topk = context.recipe, context.recipe.train.method == "topk"
        summary: Summary = {"method": recipe.train.method, "top_k": None}
        encoded: dict[str, Path] = {}
        for table in TABLES:
            path = context.folder / (f"encoded-{table}.parquet" if topk else f"{table}.parquet")
            summary[table] = dict(self._encode(_spec(context, table, path), recipe, context.progress))
            encoded[table] = path
        if count_rows(encoded["train"]) == 0:
            raise StageError(
                f"no training example is left: {summary['train']}; raise train.max_tokens ({recipe.train.max_tokens})"
            )
        if topk:
            summary |= asyncio.run(self._score(context, encoded))
            for path in encoded.values():
                path.unlink()
            shutil.rmtree(context.folder / PARTS)
        return summary

    async def _score(self, context: StageContext, encoded: Mapping[str, Path]) -> Summary:
        wanted = context.recipe.teacher.top_k
        done, total = 0, sum(count_rows(path) for path in encoded.values())
        refused: dict[str, Json] = {}
        async with self._teacher(context.recipe) as teacher:
            first = next(_rows(encoded["train"], PART_ROWS))[0]
            ids = [*first["prompt_ids"], *first["completion_ids"]][:K_PROBE_TOKENS]
            k, refusal = await largest_k(teacher, wanted, ids)
            if k < wanted:
                context.progress(0, total, f"top_k is {k}, not {wanted}: the teacher says {refusal[:100]}")
            for table, path in encoded.items():
                parts = context.folder / PARTS / f"{table}-{k}"
                parts.mkdir(parents=True, exist_ok=True)
                for number, rows in enumerate(_rows(path, PART_ROWS)):
                    part = parts / f"{number:06}.parquet"
                    if not part.exists():
                        scored = await _score_rows(
                            teacher,
                            rows,
                            k,
                            context.recipe.teacher.concurrency,
                            _counter(context.progress, done, total),
                        )
                        _write_part(part, scored)
                    done += len(rows)
                    context.progress(done, total, "answers scored")
                kept = _join(parts, context.folder / f"{table}.parquet")
                refused[table] = count_rows(path) - kept
        if count_rows(context.folder / "train.parquet") == 0:
            raise StageError("the teacher refused every row; its window is too small for prompt and answer together")
        return {"top_k": k, "top_k_wanted": wanted, REFUSED: refused}


def check_tokenizers(recipe: Recipe) -> None:
    """Distributions are over token ids: they mean nothing to a student that numbers its tokens otherwise.

    Raises: StageError.
    """
    reason = same_tokenizer(Path(recipe.student.base_model), recipe.teacher.tokenizer)
    if reason:
        raise StageError(
            f"train.method = 'topk' needs one tokenizer for both models: {reason}. Set teacher.tokenizer to the folder "
            "with the teacher's tokenizer; where the tokenizers really differ, set train.method = 'sft' (response "
            "distillation: the student learns from the teacher's text)"
        )


def tokenizer_digest(folder: Path, field: str) -> Json:
    """Hashes of the files that decide how text becomes ids. Raises: StageError."""
    found: dict[str, Json] = {}
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            found[name] = sha256_of(folder / name)
    if not found:
        raise StageError(f"{field}: {folder} has no tokenizer ({TOKENIZER_FILES[0]})")
    return found


def _spec(context: StageContext, table: str, out: Path) -> EncodeSpec:
    recipe = context.recipe
    return EncodeSpec(
        model=str(Path(recipe.student.base_model).resolve()),
        examples=str((context.inputs["split"] / f"{table}.parquet").resolve()),
        out=str(out.resolve()),
        teacher=str(Path(recipe.teacher.tokenizer).resolve())
        if recipe.train.method == "topk" and recipe.teacher.tokenizer is not None
        else None,
        max_tokens=recipe.train.max_tokens,
    )


def _encode_in_job(spec: EncodeSpec, recipe: Recipe, progress: Progress) -> Mapping[str, Any]:
    python = recipe.environments.train_python
    return run_job("train", "trainer.jobs.encode", spec, python=python, progress=progress)


async def _score_rows(
    teacher: Teacher, rows: list[dict[str, Any]], k: int, concurrency: int, count: Callable[[int], None]
) -> list[dict[str, Any] | None]:
    """In the order of the rows; None for a row that the teacher refuses. A corrected row has no distribution."""
    scored: list[dict[str, Any] | None] = [None] * len(rows)
    waiting = iter(enumerate(rows))
    finished = 0

    async def work() -> None:
        nonlocal finished
        for index, row in waiting:
            prompt = row.pop(TEACHER_PROMPT) or row["prompt_ids"]
            if row["corrected"]:
                scored[index] = row
            else:
                try:
                    found = await teacher.score(prompt, row["completion_ids"], k)
                except Refused:
                    continue
                scored[index] = {**row, "k": k, "head_ids": found.ids, "head_logprobs": found.logprobs}
            finished += 1
            count(finished)

    await all_or_first_error([work() for _ in range(concurrency)])
    return scored


def _counter(progress: Progress, done: int, total: int) -> Callable[[int], None]:
    return lambda more: progress(done + more, total, "answers scored")


def _rows(path: Path, size: int) -> Iterator[list[dict[str, Any]]]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(size):
            yield batch.to_pylist()


def _write_part(path: Path, rows: list[dict[str, Any] | None]) -> None:
    partial = path.with_suffix(".partial")
    with TableWriter(partial, token_schema()) as writer:
        for row in rows:
            if row is not None:
                writer.add(_as_float16(row))
    _sync(partial)
    partial.rename(path)


def _as_float16(row: dict[str, Any]) -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415 - heavy

    return {**row, "head_logprobs": np.asarray(row["head_logprobs"], dtype=np.float16)}


def _join(parts: Path, out: Path) -> int:
    """All parts in one table; returns its rows."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

    with pq.ParquetWriter(out, token_schema(), compression="zstd") as writer:
        for part in sorted(parts.glob("*.parquet")):
            writer.write_table(pq.read_table(part))
    return count_rows(out)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


STAGE = LogprobsStage()
