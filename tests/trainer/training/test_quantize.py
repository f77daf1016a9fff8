"""The stage quantize with a scripted job and a scripted server: what it checks, and what it refuses."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer.training.conftest import FakeTeacher
from trainer.recipe import Endpoint, Recipe
from trainer.rows import token_schema
from trainer.stage import StageContext, StageError
from trainer.stages.quantize import QuantizeStage

Make = Callable[..., Any]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    model, rows = tmp_path / "train" / "model", tmp_path / "logprobs"
    model.mkdir(parents=True)
    rows.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"w" * 1000)
    row = {"decision_id": "d", "prompt_ids": [1, 2], "completion_ids": [3], "k": 0, "head_ids": [], "head_logprobs": []}
    for name, count in (("train", 3), ("validation", 2)):
        table = pa.Table.from_pylist([{**row, "corrected": False}] * count, schema=token_schema())
        pq.write_table(table, rows / f"{name}.parquet")
    return {"train": tmp_path / "train", "logprobs": rows}


class Jobs:
    """`best` is what the twin finds most likely; the served model always says the position's number."""

    def __init__(self, best: list[int]) -> None:
        self.best = best
        self.specs: list[Any] = []

    def __call__(self, environment: str, module: str, spec: Any, *, python: Any, progress: Any) -> dict[str, Any]:
        self.specs.append((environment, module, spec))
        if module == "trainer.jobs.predict":
            return {"examples": [{"prompt_ids": [9, 9], "completion_ids": [9, 9, 9, 9], "best": self.best}] * 3}
        out = Path(spec.out)
        out.mkdir()
        (out / "config.json").write_text("{}")
        (out / "model.safetensors").write_bytes(b"q" * 400)
        return {"seconds": 1.0, "versions": {}, "group_size": None}


def stage(jobs: Jobs, teacher: FakeTeacher) -> QuantizeStage:
    @contextlib.asynccontextmanager
    async def serve(model: Path, recipe: Recipe, name: str, progress: Any) -> AsyncIterator[Endpoint]:
        assert (model / "config.json").exists()
        yield Endpoint(base_url=teacher.url, model="teacher", concurrency=2)

    return QuantizeStage(serve=serve, run_job=jobs)


def test_quantized_model_is_compared_with_its_twin_as_served(
    recipe: Make, context: Make, inputs: dict[str, Path], teacher: FakeTeacher
) -> None:
    jobs = Jobs(best=[2, 3, 4, 40])  # three of four positions agree
    made: StageContext = context(recipe(quantize={"min_agreement": 0.7}), "out", **inputs)
    summary = stage(jobs, teacher).run(made)
    assert summary["agreement"] == 0.75 and summary["compared_tokens"] == 12
    assert (summary["bytes_before"], summary["bytes_after"]) == (1002, 402)
    assert [each[:2] for each in jobs.specs] == [
        ("quantize", "trainer.jobs.quantize"),
        ("train", "trainer.jobs.predict"),
    ]
    assert msgspec.json.decode((made.folder / "quantize.json").read_bytes())["scheme"] == "W8A8"


def test_stage_fails_when_the_models_agree_too_rarely_and_quantizes_once(
    recipe: Make, context: Make, inputs: dict[str, Path], teacher: FakeTeacher
) -> None:
    jobs = Jobs(best=[2, 3, 4, 40])
    for _ in range(2):
        with pytest.raises(StageError, match=r"min_agreement: .* 0\.750 of 12 tokens, less than 0\.9"):
            stage(jobs, teacher).run(context(recipe(), "out", **inputs))
    assert [module for _, module, _ in jobs.specs].count("trainer.jobs.quantize") == 1


def test_scheme_none_copies_the_model(
    recipe: Make, context: Make, inputs: dict[str, Path], teacher: FakeTeacher
) -> None:
    jobs = Jobs(best=[])
    summary = stage(jobs, teacher).run(context(recipe(quantize={"scheme": "none"}), "out", **inputs))
    assert not jobs.specs and summary["bytes_after"] == summary["bytes_before"] == 1002


def test_training_rows_are_compared_on_when_there_is_no_validation(
    recipe: Make, context: Make, inputs: dict[str, Path], teacher: FakeTeacher
) -> None:
    pq.write_table(token_schema().empty_table(), inputs["logprobs"] / "validation.parquet")
    summary = stage(Jobs(best=[2, 3, 4, 5]), teacher).run(context(recipe(), "out", **inputs))
    assert summary["compared_on"] == "train" and summary["agreement"] == 1.0
