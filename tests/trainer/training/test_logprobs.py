"""Re-scoring against an endpoint that answers like vLLM, and the stage around it. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer.training.conftest import FakeTeacher, logprob
from trainer.jobs.spec import EncodeSpec
from trainer.recipe import Recipe
from trainer.rescoring import Refused, Teacher, _Entry, heads, largest_k
from trainer.rows import token_schema
from trainer.stage import Progress, StageContext, StageError
from trainer.stages.logprobs import TEACHER_PROMPT, LogprobsStage


async def no_sleep(delay_s: float) -> None:
    return


def impatient(recipe: Recipe) -> Teacher:
    return Teacher(recipe.teacher, sleep=no_sleep)


class Encoder:
    """Stands for the job in the training environment: `rows` of [prompt, completion, corrected]."""

    def __init__(self, rows: int, corrected: int = 0, teacher_prompt: list[int] | None = None) -> None:
        self._rows = [
            {
                "decision_id": f"d{number}", "prompt_ids": [1, 2, 3 + number % 5], "completion_ids": [7, 8 + number % 3],
                "k": 0, "head_ids": [], "head_logprobs": [], "corrected": number < corrected,
                TEACHER_PROMPT: teacher_prompt,
            }
            for number in range(rows)
        ]  # fmt: skip
        self.specs: list[EncodeSpec] = []

    def __call__(self, spec: EncodeSpec, recipe: Recipe, progress: Progress) -> Mapping[str, Any]:
        self.specs.append(spec)
        rows = self._rows if Path(spec.out).name.endswith("train.parquet") else self._rows[:2]
        schema = token_schema()
        if spec.teacher is not None:
            schema = schema.append(pa.field(TEACHER_PROMPT, pa.list_(pa.int32())))
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), spec.out)
        return {"rows": len(rows)}


def stage(encoder: Encoder) -> LogprobsStage:
    return LogprobsStage(encode=encoder, teacher=impatient)


def test_heads_are_sorted_and_cut_to_k_when_the_actual_token_is_unlikely() -> None:
    entry = {9: _Entry(-8.0), 4: _Entry(-0.1), 5: _Entry(-2.5)}
    found = heads(
        [entry, {4: _Entry(-0.2)}, {4: _Entry(-0.2), 1: _Entry(-9999.0)}, {2: _Entry(-1e6), 3: _Entry(-1.0)}], 2
    )
    assert found.ids[:2] == [4, 5] and found.logprobs[:2] == [-0.1, -2.5]
    assert found.ids[2:4] == [4, 0] and found.logprobs[2:4] == [-0.2, float("-inf")]
    assert found.ids[4:6] == [4, 1] and found.logprobs[5] == -9999.0
    assert found.logprobs[6:] == [-1.0, float("-inf")]  # below what float16 can hold
    assert len(found.ids) == len(found.logprobs) == 8


async def test_score_takes_the_completion_positions_only(teacher: FakeTeacher, recipe: Callable[..., Recipe]) -> None:
    async with impatient(recipe()) as client:
        found = await client.score([1, 2, 3], [40, 41], 3)
    assert teacher.scored == [[1, 2, 3, 40, 41]]
    assert found.ids == [3, 4, 5, 4, 5, 6]  # position 3 and 4 of the whole sequence
    assert found.logprobs == [logprob(3, 3), logprob(3, 4), logprob(3, 5), logprob(4, 4), logprob(4, 5), logprob(4, 6)]
    assert teacher.bodies[0]["max_tokens"] == 1 and teacher.bodies[0]["temperature"] == 0


@pytest.mark.parametrize("entry", [None, {}, {"4": {"logprob": -9999.0}}, {"4": {"logprob": -1e6}}])
async def test_row_is_refused_when_the_teacher_gives_no_distribution_for_a_token(
    teacher: FakeTeacher, recipe: Callable[..., Recipe], entry: Any
) -> None:
    """Written as a head without real entries, the token would count as if the teacher had said something."""
    whole = teacher._entries

    def torn(ids: list[int], k: int) -> list[Any]:
        return [*whole(ids, k)[:-1], entry]

    teacher._entries = torn  # type: ignore[method-assign]
    async with impatient(recipe()) as client:
        with pytest.raises(Refused, match="no distribution for token 1"):
            await client.score([1, 2, 3], [40, 41], 3)


async def test_score_retries_when_the_endpoint_is_busy(teacher: FakeTeacher, recipe: Callable[..., Recipe]) -> None:
    teacher.failing = [503, 429, 500]
    async with impatient(recipe()) as client:
        assert (await client.score([1, 2], [3], 2)).k == 2
    assert len(teacher.bodies) == 4


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [(401, StageError, "check base_url, model"), (404, StageError, "api_key_env"), (422, Refused, "told to fail")],
)
async def test_score_does_not_retry_what_cannot_succeed(
    teacher: FakeTeacher, recipe: Callable[..., Recipe], status: int, error: type[Exception], message: str
) -> None:
    teacher.failing = [status]
    async with impatient(recipe()) as client:
        with pytest.raises(error, match=message):
            await client.score([1, 2], [3], 2)
    assert len(teacher.bodies) == 1


async def test_largest_k_is_found_by_bisection(teacher: FakeTeacher, recipe: Callable[..., Recipe]) -> None:
    async with impatient(recipe()) as client:
        assert await largest_k(client, 20, [1, 2]) == (20, "")
        k, refusal = await largest_k(client, 64, [1, 2])
        assert k == 20 and "max allowed: 20" in refusal
        teacher.max_logprobs = 0
        with pytest.raises(StageError, match="--max-logprobs 64"):
            await largest_k(client, 64, [1, 2])


def test_stage_writes_heads_and_leaves_corrected_rows_without_when_method_is_topk(
    teacher: FakeTeacher, recipe: Callable[..., Recipe], context: Callable[..., StageContext], tmp_path: Path
) -> None:
    made = context(recipe(), "out", split=tmp_path)
    summary = stage(Encoder(300, corrected=5)).run(made)
    rows = pq.read_table(made.folder / "train.parquet", schema=token_schema()).to_pylist()
    assert [row["decision_id"] for row in rows] == [f"d{number}" for number in range(300)]
    assert all(row["corrected"] and row["head_ids"] == [] for row in rows[:5])
    assert rows[7]["k"] == 4 and rows[7]["head_ids"] == [3, 4, 5, 6, 4, 5, 6, 7]
    assert rows[7]["head_logprobs"][:4] == [-0.5, -1.5, -2.5, -3.5]
    assert summary["top_k"] == 4 and summary["teacher_refused"] == {"train": 0, "validation": 0}
    assert sorted(path.name for path in made.folder.iterdir()) == ["train.parquet", "validation.parquet"]


def test_stage_scores_only_what_is_missing_when_it_was_interrupted(
    teacher: FakeTeacher, recipe: Callable[..., Recipe], context: Callable[..., StageContext], tmp_path: Path
) -> None:
    made = context(recipe(), "out", split=tmp_path)
    teacher.die_after = 280  # one part of 256 rows is whole, the next one is not
    with pytest.raises(StageError, match="what it has scored is kept"):
        stage(Encoder(300)).run(made)
    teacher.let_go()
    teacher.die_after, teacher.scored = None, []
    stage(Encoder(300)).run(made)
    assert len(teacher.scored) == 1 + (300 - 256) + 2  # the question for K, the rest, the validation rows
    rows = pq.read_table(made.folder / "train.parquet").to_pylist()
    assert [row["decision_id"] for row in rows] == [f"d{number}" for number in range(300)]
    assert all(row["k"] == 4 for row in rows)


def test_stage_caps_k_and_says_so_when_the_endpoint_allows_less(
    teacher: FakeTeacher, recipe: Callable[..., Recipe], context: Callable[..., StageContext], tmp_path: Path
) -> None:
    teacher.max_logprobs = 2
    summary = stage(Encoder(3)).run(context(recipe(), "out", split=tmp_path))
    assert (summary["top_k"], summary["top_k_wanted"]) == (2, 4)
    rows = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert {row["k"] for row in rows} == {2} and len(rows[0]["head_ids"]) == 4


def test_stage_drops_and_counts_rows_that_the_teacher_refuses(
    teacher: FakeTeacher, recipe: Callable[..., Recipe], context: Callable[..., StageContext], tmp_path: Path
) -> None:
    encoder = Encoder(3)
    encoder._rows[1]["completion_ids"] = [7] * 30
    teacher.window = 20
    summary = stage(encoder).run(context(recipe(), "out", split=tmp_path))
    assert summary["teacher_refused"] == {"train": 1, "validation": 1}
    assert [row["decision_id"] for row in pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()] == ["d0", "d2"]


def test_stage_goes_on_when_the_very_first_row_is_too_long_for_the_teacher(
    teacher: FakeTeacher, recipe: Callable[..., Recipe], context: Callable[..., StageContext], tmp_path: Path
) -> None:
    encoder = Encoder(3)
    encoder._rows[0]["completion_ids"] = [7] * 30
    teacher.window = 20
    summary = stage(encoder).run(context(recipe(), "out", split=tmp_path))
    assert summary["top_k"] == 4 and summary["teacher_refused"] == {"train": 1, "validation": 1}


def test_stage_asks_with_the_teachers_prompt_and_keeps_the_students(
    teacher: FakeTeacher, recipe: Callable[..., Recipe], context: Callable[..., StageContext], tmp_path: Path
) -> None:
    """Two chat templates over one vocabulary: each model sees its own rendering of the same messages."""
    stage(Encoder(2, teacher_prompt=[11, 12, 13, 14])).run(context(recipe(), "out", split=tmp_path))
    assert [11, 12, 13, 14, 7, 8] in teacher.scored
    rows = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert rows[0]["prompt_ids"] == [1, 2, 3] and TEACHER_PROMPT not in rows[0]


def test_stage_needs_no_endpoint_when_method_is_sft(
    teacher: FakeTeacher, recipe: Callable[..., Recipe], context: Callable[..., StageContext], tmp_path: Path
) -> None:
    encoder = Encoder(3)
    summary = stage(encoder).run(context(recipe(train={"method": "sft"}), "out", split=tmp_path))
    assert not teacher.bodies and summary["top_k"] is None
    assert encoder.specs[0].teacher is None
    assert pq.read_table(tmp_path / "out" / "train.parquet", schema=token_schema()).num_rows == 3


def test_stage_refuses_when_no_example_is_left(
    recipe: Callable[..., Recipe], context: Callable[..., StageContext], tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=r"raise train\.max_tokens"):
        stage(Encoder(0)).run(context(recipe(), "out", split=tmp_path))


def test_key_refuses_topk_when_the_tokenizers_differ(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"b": 0, "a": 1}}}))
    wrong = recipe(teacher={"tokenizer": str(other)})
    with pytest.raises(StageError, match=r"different tokenizers.*train\.method = 'sft'"):
        LogprobsStage().key(wrong)
    assert LogprobsStage().key(recipe(teacher={"tokenizer": str(other)}, train={"method": "sft"}))
    with pytest.raises(StageError, match="tokenizer is not set"):
        LogprobsStage().key(recipe(teacher={"tokenizer": None}))


def test_key_changes_with_what_changes_the_output_only(recipe: Callable[..., Recipe], base_model: Path) -> None:
    key = LogprobsStage().key
    before = key(recipe())
    assert key(recipe(teacher={"concurrency": 7, "timeout_s": 9.0})) == before
    assert key(recipe(teacher={"top_k": 5})) != before
    (base_model / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    assert key(recipe()) != before
