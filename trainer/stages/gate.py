"""Stage `gate`: the verdict on the candidate, with its reasons and a report. A FAIL does not stop the run.

The bundle carries the verdict: `locum student promote` takes only a PASS, and `locum train run` ends with exit code 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from trainer.evaluation.figures import pooled_categories
from trainer.evaluation.gate import decide
from trainer.recipe import Recipe
from trainer.stage import Json, StageContext, StageError, Summary


class GateStage:
    """Decides from the figures of the stage evaluate; asks no model."""

    name = "gate"
    needs: tuple[str, ...] = ("evaluate",)
    version = 2

    def key(self, recipe: Recipe) -> Json:
        options: dict[str, Json] = recipe.gate.model_dump(mode="json")
        return {"gate": options, "name": recipe.name}

    def run(self, context: StageContext) -> Summary:
        from trainer.evaluation.report import report_html, report_json  # noqa: PLC0415 - only when it is used

        recipe, folder = context.recipe, context.inputs["evaluate"]
        evaluation, rows = _read(folder)
        answered = [bool((text or "").strip()) for text in rows["teacher_text"]]
        if not any(answered):
            raise StageError(
                "evaluate: the teacher answered no case; a teacher that thinks first needs a larger "
                "evaluate.max_output_tokens"
            )
        result = decide(
            pooled_categories(rows["category"], recipe.gate.min_category_cases),
            rows["student_right"],
            [right if told else None for right, told in zip(rows["teacher_right"], answered, strict=True)],
            evaluation,
            recipe.gate,
        )
        files = {
            "gate.json": _json(result),
            "report.json": _json(report_json(recipe.name, evaluation, result)),
            "report.html": report_html(recipe.name, evaluation, result, recipe.gate.confidence).encode(),
        }
        for name, content in files.items():
            (context.folder / name).write_bytes(content)
        return {
            "verdict": result.verdict,
            "reasons": list(result.reasons),
            "warnings": list(result.warnings),
            "missing_labels": result.missing_labels,
            "difference": evaluation["parity"]["teacher"]["estimate"],
        }


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

    try:
        evaluation = msgspec.json.decode((folder / "evaluation.json").read_bytes(), type=dict[str, Any])
    except msgspec.MsgspecError as exc:
        raise StageError(f"{folder / 'evaluation.json'} is damaged ({exc}); run again with --from evaluate") from exc
    columns = ["category", "student_right", "teacher_right", "teacher_text"]
    table = pq.read_table(folder / "cases.parquet", columns=columns)
    return evaluation, table.to_pydict()


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


STAGE = GateStage()
