"""The training half of the loop on the real model: re-scored by vLLM, pruned, trained, quantized, served again."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyarrow.parquet as pq
import pytest

from serving.models import PreparedModel
from tests.slow.conftest import ROOT, STUDENT_CORE, core
from trainer.evaluation.served import folder_bytes
from trainer.probe_teacher import probe
from trainer.recipe import Recipe
from trainer.rows import token_schema
from trainer.stage import StageContext, Summary
from trainer.stages.logprobs import LogprobsStage
from trainer.stages.quantize import QuantizeStage
from trainer.stages.train import TrainStage
from trainer.tables import Example, ExampleWriter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

QUESTIONS = ("What is the capital of France?", "Name a colour.", "What is two plus two?", "Who wrote Hamlet?")


def python_of(name: str) -> str:
    """The environment's interpreter, which `make test` has installed."""
    path = os.environ.get(f"LOCUM_{name.upper()}_PYTHON") or str(ROOT / f".venv-{name}" / "bin" / "python")
    if not Path(path).exists():
        message = f"{path} does not exist: run `make install-{name}`, or set LOCUM_{name.upper()}_PYTHON"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


def write_examples(path: Path, url: str, count: int) -> None:
    """The teacher's own greedy answers with their token ids; the first has a correction, the last no ids."""
    with ExampleWriter(path) as table:
        for number in range(count):
            messages = [{"role": "user", "content": f"{QUESTIONS[number % len(QUESTIONS)]} Use {number + 2} words."}]
            body = {
                "model": "student",
                "messages": messages,
                "max_tokens": 24,
                "temperature": 0,
                "return_token_ids": True,
            }
            answer = httpx.post(f"{url}/chat/completions", json=body, timeout=600).json()
            choice = answer["choices"][0]
            recorded = number < count - 1
            table.keep(Example(
                decision_id=f"d{number}", created_s=float(number), tenant="default", route="teacher", teacher="t",
                distillation="allowed", messages=json.dumps(messages), completion=choice["message"]["content"],
                correction="Blue." if number == 0 else None,
                prompt_ids=answer["prompt_token_ids"] if recorded else None,
                completion_ids=choice["token_ids"] if recorded else None,
            ))  # fmt: skip


def run(stage: Any, recipe: Recipe, folder: Path, inputs: dict[str, Path]) -> Summary:
    stage.key(recipe)
    folder.mkdir()
    progress = lambda done, total, unit: None  # noqa: E731
    summary: Summary = stage.run(StageContext(recipe, folder, inputs, {}, progress))
    return summary


async def test_student_is_distilled_quantized_and_served_again(
    student_url: str, student_model: PreparedModel, serving_python: str, tmp_path: Path
) -> None:
    recipe = Recipe.model_validate({
        "name": "real", "export": {"log_dir": "unused"},
        "teacher": {"base_url": student_url, "model": "student", "tokenizer": str(student_model.path), "top_k": 24},
        "student": {"base_model": str(student_model.path), "layers": [0, 29]},
        "train": {"method": "topk", "epochs": 20, "max_steps": 6, "batch_size": 6, "learning_rate": 1e-3, "threads": 1},
        "quantize": {"scheme": "W8A8", "min_agreement": 0.5},
        "evaluate": {
            "dataset": "unused", "sha256": "0" * 64, "provenance": "human",
            "vllm": {"context_window_tokens": 256, "cpu_omp_threads_bind": str(core(STUDENT_CORE))},
        },
        "environments": {
            "train_python": python_of("train"), "quantize_python": python_of("quantize"), "serving_python": serving_python,
        },
    })  # fmt: skip
    report = await probe(recipe)
    assert report.topk_possible and report.token_ids and report.top_k == 20

    split = tmp_path / "split"
    split.mkdir()
    write_examples(split / "train.parquet", student_url, 12)
    write_examples(split / "validation.parquet", student_url, 6)
    folders = {"split": split, **{name: tmp_path / name for name in ("logprobs", "train", "quantize")}}
    summary = await asyncio.to_thread(run, LogprobsStage(), recipe, folders["logprobs"], folders)
    assert summary["top_k"] == 20 and summary["teacher_refused"] == {"train": 0, "validation": 0}
    rows = pq.read_table(folders["logprobs"] / "train.parquet", schema=token_schema()).to_pylist()
    assert rows[0]["corrected"] and rows[0]["head_ids"] == []
    assert summary["train"]["rendered"] == 1  # type: ignore[index, call-overload]
    same = total = 0
    for row in rows[1:]:
        heads = [row["head_logprobs"][start : start + 20] for start in range(0, len(row["head_logprobs"]), 20)]
        assert len(heads) == len(row["completion_ids"])
        assert all(head == sorted(head, reverse=True) for head in heads)
        # An answer cut at max_tokens was closed by a stop token that the teacher did not choose.
        total += len(heads) - 1
        same += sum(row["head_ids"][20 * place] == row["completion_ids"][place] for place in range(len(heads) - 1))
    # Greedy answers: each token is the most likely one at its own position, up to bfloat16's ties.
    assert same / total > 0.9

    await asyncio.to_thread(run, TrainStage(), recipe, folders["train"], folders)
    trained = msgspec.json.decode((folders["train"] / "train.json").read_bytes(), type=dict[str, Any])
    assert trained["losses"][-1] < trained["losses"][0] and trained["validation"]["kl"] > 0
    assert msgspec.json.decode((folders["train"] / "model" / "config.json").read_bytes())["num_hidden_layers"] == 2
    assert sorted(path.name for path in folders["train"].iterdir()) == ["model", "train.json"]

    summary = await asyncio.to_thread(run, QuantizeStage(), recipe, folders["quantize"], folders)
    assert summary["scheme"] == "W8A8" and summary["compared_on"] == "validation"
    assert float(str(summary["agreement"])) >= 0.5
    assert folder_bytes(folders["quantize"] / "model") < folder_bytes(folders["train"] / "model")
