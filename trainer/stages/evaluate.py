"""Stage `evaluate`: the served candidate against its teacher and the student before it, on human-labelled cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainer.evaluation.closeness import tokenizer_sha256
from trainer.evaluation.dataset import Case, load_cases, refuse_trained_cases
from trainer.evaluation.evaluation import build
from trainer.evaluation.runner import Observations, Outside, observe, previous_student
from trainer.evaluation.served import folder_bytes, keyed_options, serve
from trainer.recipe import Recipe
from trainer.stage import Json, StageContext, Summary


class EvaluateStage:
    """Judges nothing: it measures, and the gate decides."""

    name = "evaluate"
    needs: tuple[str, ...] = ("consent", "split", "quantize")
    version = 3

    def __init__(self, outside: Outside | None = None) -> None:
        self._outside = outside or Outside(serve)

    def key(self, recipe: Recipe) -> Json:
        """What is compared, by content: files by their hash, the teacher by its name and version wherever it is served.

        A teacher that is another one under the same name is an alarm, not another key: see `teacher_alarms`. The base
        model is in the address already, by the stage train. The current student of the registry is no part of it: a
        promotion must not make a finished evaluation look unfinished (`--from evaluate` asks again).
        """
        options: dict[str, Json] = recipe.evaluate.model_dump(mode="json", exclude={"dataset", "previous_student"})
        options["vllm"] = keyed_options(recipe)
        load_cases(Path(recipe.evaluate.dataset), "evaluate.dataset", sha256=recipe.evaluate.sha256)
        named = previous_student(recipe) if recipe.evaluate.previous_student is not None else None
        return {
            "evaluate": options,
            "previous_student": None if named is None else named.sha256,
            "teacher": [recipe.teacher.model, recipe.teacher.version],
            "closeness": [tokenizer_sha256(recipe), recipe.teacher.top_k],
            "escalated_share": _escalated_share(recipe),
            "confidence": recipe.gate.confidence,
        }

    def run(self, context: StageContext) -> Summary:
        recipe = context.recipe
        cases = load_cases(Path(recipe.evaluate.dataset), "evaluate.dataset", sha256=recipe.evaluate.sha256)
        refuse_trained_cases(cases, context.inputs["split"], "evaluate.dataset")
        model = context.inputs["quantize"] / "model"
        observed = observe(context, cases, model, self._outside)
        evaluation = build(recipe, cases, observed, folder_bytes(model), _escalated_share(recipe))
        _write_cases(context.folder / "cases.parquet", cases, observed, recipe)
        (context.folder / "evaluation.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(evaluation), indent=1) + b"\n"
        )
        return {
            "cases": len(cases),
            "student_accuracy": evaluation["accuracy"]["student"]["estimate"],
            "teacher_accuracy": evaluation["accuracy"]["teacher"]["estimate"],
            "agreement": evaluation["agreement"],
            "previous": observed.previous.name if observed.previous else None,
            "model_sha256": observed.student.sha256,
            "teacher_fingerprint": observed.teacher.fingerprint,
            "alarms": list(teacher_alarms(observed.teacher.fingerprint, context.summaries["consent"])),
        }


def teacher_alarms(probed: str, consent: Summary) -> list[str]:
    """What to look at when the teacher that was just asked is not the one whose answers were learned from.

    Args:
        probed: `ModelClient.fingerprint`: what the endpoint states, then a hash of its answers to fixed probes.
        consent: the stage's summary, with the fingerprints in the traffic's records (what the endpoint stated then).
    """
    licences = consent.get("licences")
    by_teacher = licences.get("fingerprints") if isinstance(licences, dict) else None
    counts = list(by_teacher.values()) if isinstance(by_teacher, dict) else []
    recorded = sorted({name for each in counts if isinstance(each, dict) for name in each if name})
    stated = probed.rpartition(" ")[0]
    if not stated or not recorded or any(_agree(stated, each) for each in recorded):
        return []
    return [
        f"the teacher's endpoint states {stated}, the traffic was answered by {', '.join(recorded)}: the student is "
        "compared with another teacher than it learned from"
    ]


def _agree(one: str, other: str) -> bool:
    """Whether the fingerprints may be of one model: equal, or one says less (a stream may leave out the version)."""
    return one == other or one.startswith(f"{other} ") or other.startswith(f"{one} ")


def _escalated_share(recipe: Recipe) -> float:
    """The share that counts as unsure in the out-of-distribution set: what the cascade may escalate."""
    share = recipe.recalibrate.max_teacher_share
    return 0.2 if share is None else share


def _write_cases(path: Path, cases: Sequence[Case], observed: Observations, recipe: Recipe) -> None:
    """One row a case; the columns of a model that was not asked are null."""
    import pyarrow as pa  # noqa: PLC0415 - heavy
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

    from trainer.evaluation.figures import graded  # noqa: PLC0415 - needs numpy

    columns: dict[str, list[object]] = {
        "id": [case.id for case in cases],
        "category": [case.category for case in cases],
        "label": [case.label for case in cases],
    }
    fields = [("id", pa.string()), ("category", pa.string()), ("label", pa.string())]
    for role, seen in (("student", observed.student), ("teacher", observed.teacher), ("previous", observed.previous)):
        answers = [seen.task[case.id] if seen else None for case in cases]
        right = graded(cases, seen.task, recipe.evaluate.grader) if seen else [None] * len(cases)
        columns[f"{role}_text"] = [each.text if each else None for each in answers]
        columns[f"{role}_right"] = list(right)
        columns[f"{role}_mean_logprob"] = [each.mean_logprob if each else None for each in answers]
        columns[f"{role}_tokens"] = [each.tokens if each else None for each in answers]
        columns[f"{role}_finish_reason"] = [each.finish_reason if each else None for each in answers]
        fields += [
            (f"{role}_text", pa.string()),
            (f"{role}_right", pa.bool_()),
            (f"{role}_mean_logprob", pa.float64()),
            (f"{role}_tokens", pa.int32()),
            (f"{role}_finish_reason", pa.string()),
        ]
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), path, compression="zstd")


STAGE = EvaluateStage()
