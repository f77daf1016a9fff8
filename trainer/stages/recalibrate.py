"""Stage `recalibrate`: from the served candidate's answers to labelled cases to its calibrator and threshold.

The labels are neither training data nor the evaluation set: a threshold that is set on what the student has seen, or
on what judges it, promises too much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from policies import artefact
from policies.durable import sha256_of
from policies.grading import is_right
from trainer.evaluation.dataset import Case, load_cases, prompt_hash, refuse_overlap, trained_ids
from trainer.evaluation.endpoint import Answer
from trainer.evaluation.journal import Prompt
from trainer.evaluation.runner import Outside, answer_prompts
from trainer.evaluation.served import keyed_options, serve
from trainer.recipe import Recipe
from trainer.stage import Json, StageContext, StageError, Summary

CALIBRATOR = "calibrator.json"
RESULT = "recalibrate.json"


class RecalibrateStage:
    """Without labels, or with too few, the bundle has no calibrator and its cascade abstains; the run goes on."""

    name = "recalibrate"
    needs: tuple[str, ...] = ("split", "quantize")
    version = 1

    def __init__(self, outside: Outside | None = None) -> None:
        self._outside = outside or Outside(serve)

    def key(self, recipe: Recipe) -> Json:
        options = recipe.recalibrate
        labels: str | None = None
        if options.labels is not None:
            try:
                labels = sha256_of(Path(options.labels))
            except OSError as exc:
                raise StageError(f"recalibrate.labels: {options.labels} cannot be read: {exc.strerror}") from exc
        return {
            "labels": labels,
            "max_teacher_share": options.max_teacher_share,
            "grader": recipe.evaluate.grader,
            "max_output_tokens": recipe.evaluate.max_output_tokens,
            "evaluation_set": recipe.evaluate.sha256,
            "vllm": keyed_options(recipe),
        }

    def run(self, context: StageContext) -> Summary:
        recipe = context.recipe
        if recipe.recalibrate.labels is None:
            return _without(context.folder, "recalibrate.labels is not set", [])
        cases = load_cases(Path(recipe.recalibrate.labels), "recalibrate.labels")
        refuse_overlap(
            cases, load_cases(Path(recipe.evaluate.dataset), "evaluate.dataset", sha256=recipe.evaluate.sha256)
        )
        trained = trained_ids(cases, context.inputs["split"])
        usable = [case for case in cases if case.id not in trained]
        if not usable:
            return _without(context.folder, "every labelled prompt is also in the training data", [])
        prompts = [Prompt(case.id, case.prompt()) for case in usable]
        answers, sha256 = asyncio.run(
            answer_prompts(context, prompts, context.inputs["quantize"] / "model", self._outside)
        )
        return _fit(context, usable, answers, sha256, left_out=len(trained))


def _fit(
    context: StageContext, cases: Sequence[Case], answers: dict[str, Answer], model_sha256: str, *, left_out: int
) -> Summary:
    import numpy as np  # noqa: PLC0415 - heavy

    from trainer.tune.report import artefact_of  # noqa: PLC0415 - needs numpy
    from trainer.tune.threshold import Answers, TooFewLabels, UselessSignal, Wish, tune  # noqa: PLC0415 - needs numpy

    recipe, share = context.recipe, context.recipe.recalibrate.max_teacher_share
    scored = [case for case in cases if answers[case.id].mean_logprob is not None]
    empty = sum(not (answers[case.id].text or "").strip() for case in cases if case not in scored)
    rows = Answers(
        logprob=np.array([answers[case.id].mean_logprob for case in scored], dtype=np.float64),
        right=np.array([is_right(answers[case.id].text, case.label, recipe.evaluate.grader) for case in scored], bool),
        teacher=np.full(len(scored), np.nan),
        groups=tuple(prompt_hash(case.prompt()) for case in scored),
    )
    try:
        tuned = tune(rows, Wish(max_teacher_share=_share_left(share, len(cases), empty)))
    except (TooFewLabels, UselessSignal) as exc:
        return _without(context.folder, str(exc), [f"no calibrator: {exc}"])
    source = f"{Path(recipe.recalibrate.labels or '').name}, human labels, answered by the served candidate"
    fitted = msgspec.structs.replace(artefact_of(tuned, student="", model_sha256=model_sha256), source=source)
    artefact.write(context.folder / CALIBRATOR, fitted)
    summary: Summary = {
        "calibrated": True,
        "labels": len(cases),
        "left_out_as_trained": left_out,
        "empty_answers": empty,
        "threshold": None if share is None else tuned.threshold,
        "teacher_share_on_labels": (tuned.share_on_rows * len(scored) + empty) / len(cases),
        "expected_teacher_share": [
            tuned.predicted.teacher_share.estimate,
            tuned.predicted.teacher_share.low,
            tuned.predicted.teacher_share.high,
        ],
        "student_accuracy": tuned.student_accuracy.estimate,
        "error_auroc": tuned.auroc,
        "ece_before": tuned.ece_before,
        "ece_after": tuned.ece_after,
        "model_sha256": model_sha256,
    }
    _write(context.folder, summary)
    return summary


def _share_left(share: float | None, n: int, empty: int) -> float:
    """The share of the scored answers that may still escalate: empty answers escalate whatever the threshold is."""
    if share is None:
        return 1.0
    return min(1.0, max(0.0, (share * n - empty) / max(1, n - empty)))


def _without(folder: Path, reason: str, alarms: list[Json]) -> Summary:
    summary: Summary = {"calibrated": False, "reason": reason, "alarms": alarms}
    _write(folder, summary)
    return summary


def _write(folder: Path, summary: Summary) -> None:
    (folder / RESULT).write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=1) + b"\n")


STAGE = RecalibrateStage()
