"""Stage `train`: the student, from the base model and the encoded examples, in the environment that has torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from trainer.environments import run_job
from trainer.jobs.digests import digest_model
from trainer.jobs.spec import TrainSpec
from trainer.recipe import Recipe
from trainer.stage import Json, StageContext, StageError, Summary
from trainer.tables import count_rows

UNKEYED = frozenset({"checkpoint_interval_s", "threads"})
"""Options that change how long it takes, not what comes out."""
SHARED = frozenset(TrainSpec.__struct_fields__)


class TrainStage:
    name = "train"
    needs: tuple[str, ...] = ("logprobs",)
    version = 1

    def key(self, recipe: Recipe) -> Json:
        """Raises: StageError: there is no such base model."""
        base = Path(recipe.student.base_model)
        if not (base / "config.json").is_file():
            raise StageError(f"student.base_model: {base} is no model folder in Hugging Face layout (no config.json)")
        student = recipe.student.model_dump(mode="json", exclude={"base_model"})
        return {
            "base_model": digest_model(base),
            "student": student,
            "train": recipe.train.model_dump(mode="json", exclude=set(UNKEYED)),
        }

    def run(self, context: StageContext) -> Summary:
        spec = train_spec(context.recipe, context.inputs["logprobs"], context.folder)
        python = context.recipe.environments.train_python
        report = run_job("train", "trainer.jobs.train", spec, python=python, progress=context.progress)
        (context.folder / ".lock").unlink(missing_ok=True)
        return _summary(report)


def train_spec(recipe: Recipe, rows: Path, out: Path) -> TrainSpec:
    """What the job is told. Without validation rows there is no validation."""
    options: dict[str, Any] = {
        name: value for name, value in recipe.train.model_dump(mode="json").items() if name in SHARED
    }
    validation = rows / "validation.parquet"
    values = {
        **options,
        "base_model": str(Path(recipe.student.base_model).resolve()),
        "layers": recipe.student.layers,
        "init": recipe.student.init,
        "train": str((rows / "train.parquet").resolve()),
        "validation": str(validation.resolve()) if count_rows(validation) else None,
        "out": str(out.resolve()),
    }
    return msgspec.convert(values, TrainSpec)


def _summary(report: dict[str, Any]) -> Summary:
    names = ("examples", "dropped_too_long", "steps", "parameters", "seconds", "tokens_per_second", "top_k", "resumed")
    summary: Summary = {name: report[name] for name in names}
    summary["final_loss"] = report["losses"][-1]
    summary["model_sha256"] = report["model_sha256"]
    if (validation := report.get("validation")) is not None:
        summary["validation"] = validation
    return summary


STAGE = TrainStage()
