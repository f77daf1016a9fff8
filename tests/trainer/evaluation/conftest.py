"""Folders of finished stages and a recipe, as a run would have them before the stage evaluate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.recipe import Recipe
from trainer.rows import example_schema
from trainer.stage import StageContext, Summary

LABELS = ("refund", "card lost", "top up", "exchange rate")


def question(index: int) -> str:
    return f"Customer {index} asks about {LABELS[index % 4]}."


def write_cases(path: Path, numbers: range) -> str:
    lines = [
        json.dumps(
            {
                "id": f"case-{i}",
                "messages": [{"role": "user", "content": question(i)}],
                "label": LABELS[i % 4],
                "category": f"group {i % 2}",
            }
        )
        for i in numbers
    ]
    path.write_text("\n".join(lines) + "\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_split(folder: Path, prompts: list[str]) -> None:
    folder.mkdir(parents=True)
    rows = [
        {"decision_id": f"d{i}", "messages": json.dumps([{"role": "user", "content": prompt}])}
        for i, prompt in enumerate(prompts)
    ]
    schema = example_schema()
    full = [{name: row.get(name) for name in schema.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(full, schema=schema), folder / "train.parquet")
    pq.write_table(pa.Table.from_pylist([], schema=schema), folder / "validation.parquet")


def write_model(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "name.txt").write_text(name)
    (folder / "config.json").write_text('{"max_position_embeddings": 2048}')
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}, "padding": null}')
    return folder


class Run:
    """One run's folders; stages are run by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sha256 = write_cases(root / "cases.jsonl", range(60))
        self.options: dict[str, Any] = {
            "name": "bank",
            "work_dir": str(root / "runs"),
            "export": {"log_dir": str(root / "traffic")},
            "teacher": {"base_url": "http://127.0.0.1:9/v1", "model": "teacher", "top_k": 5},
            "student": {"base_model": str(root / "base")},
            "evaluate": {
                "dataset": str(root / "cases.jsonl"),
                "sha256": self.sha256,
                "provenance": "human",
                "general_cases": 0,
                "safety": False,
                "speed_requests": 8,
            },
            "gate": {"margin": 0.08, "category_margin": 0.15},
            "bundle": {"registry": str(root / "students")},
        }
        write_split(root / "split", ["Something else entirely."])
        write_model(root / "quantize" / "model", "student")
        self.summaries: dict[str, Summary] = {"consent": {}}
        self.inputs: dict[str, Path] = {"split": root / "split", "quantize": root / "quantize"}
        self.progress: list[tuple[int, int | None, str]] = []

    def recipe(self) -> Recipe:
        return Recipe.model_validate(self.options)

    def context(self, name: str) -> StageContext:
        folder = self.root / "runs" / "bank" / name / "0123456789ab.partial"
        folder.mkdir(parents=True, exist_ok=True)
        return StageContext(
            recipe=self.recipe(),
            folder=folder,
            inputs=self.inputs,
            summaries=self.summaries,
            progress=lambda done, total, unit: self.progress.append((done, total, unit)),
        )

    def run(self, stage: Any) -> Summary:
        context = self.context(stage.name)
        summary: Summary = stage.run(context)
        self.inputs[stage.name], self.summaries[stage.name] = context.folder, summary
        return summary


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def replies(wrong: Callable[[int], bool]) -> Callable[[str], tuple[str, float]]:
    """A model that knows the label, but for the customers that `wrong` picks; unsure where it errs, mostly."""

    def answer(text: str) -> tuple[str, float]:
        words = text.split()
        if not text.startswith("Customer"):
            return "I'm sorry, I can't help with that.", -2.0
        index = int(words[1])
        if wrong(index):
            return LABELS[(index + 1) % 4], -1.5 - (index % 7) / 50
        return LABELS[index % 4], -0.05 - (index % 11) / 20

    return answer
