"""The stage recalibrate: which labels count, and what the threshold may cost."""

from __future__ import annotations

import pytest

from tests.trainer.evaluation.conftest import LABELS, Run, question, replies, write_cases, write_split
from tests.trainer.evaluation.fake_model import Script, serving
from trainer.evaluation.runner import Outside
from trainer.stage import StageError
from trainer.stages.recalibrate import RecalibrateStage


def test_threshold_escalates_no_more_than_the_recipe_allows_when_answers_tie(run: Run) -> None:
    write_cases(run.root / "labels.jsonl", range(1000, 1100))
    run.options["recalibrate"] = {"labels": str(run.root / "labels.jsonl"), "max_teacher_share": 0.15}

    def answer(text: str) -> tuple[str, float]:
        index = int(text.split()[1]) if text.startswith("Customer") else 0
        if index % 25 == 3:
            return "", -0.1
        return LABELS[(index + (index % 10 == 0)) % 4], -1.0 if index % 10 in (0, 1, 2) else -0.1

    summary = run.run(RecalibrateStage(Outside(serving({"student": Script(answer)}))))
    assert summary["calibrated"] is True
    assert summary["empty_answers"] == 4
    assert summary["teacher_share_on_labels"] == pytest.approx(0.04)  # the tie of 30 % may not be cut


def test_recalibration_is_refused_when_labels_judge_the_student_as_well(run: Run) -> None:
    write_cases(run.root / "labels.jsonl", range(40, 80))
    run.options["recalibrate"] = {"labels": str(run.root / "labels.jsonl")}
    with pytest.raises(StageError, match=r"20 cases are also in evaluate\.dataset"):
        run.run(RecalibrateStage(Outside(serving({}))))


def test_recalibration_leaves_out_labels_when_the_student_was_trained_on_them(run: Run) -> None:
    write_cases(run.root / "labels.jsonl", range(1000, 1120))
    write_split(run.root / "other", [question(i) for i in range(1000, 1050)])
    run.inputs["split"] = run.root / "other"
    run.options["recalibrate"] = {"labels": str(run.root / "labels.jsonl")}
    student = Script(replies(lambda i: i % 10 == 0))
    summary = run.run(RecalibrateStage(Outside(serving({"student": student}))))
    assert summary["left_out_as_trained"] == 50
    assert summary["labels"] == 70
