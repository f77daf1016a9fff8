"""Runs the stages against scripted models on real sockets."""

from __future__ import annotations

import json
from typing import Any

from tests.trainer.evaluation.conftest import Run, replies
from tests.trainer.evaluation.fake_model import Script, running, serving
from trainer.evaluation.runner import Outside
from trainer.stages.bundle import BundleStage
from trainer.stages.evaluate import EvaluateStage
from trainer.stages.gate import GateStage
from trainer.stages.recalibrate import RecalibrateStage


def never(index: int) -> bool:
    return False


def evaluate(run: Run, student: Script, teacher: Script, *, others: dict[str, Script] | None = None) -> dict[str, Any]:
    with running(teacher) as endpoint:
        run.options["teacher"]["base_url"] = endpoint.base_url
        outside = Outside(serving({"student": student, **(others or {})}), cache=run.root / "cache")
        run.run(EvaluateStage(outside))
    return json.loads((run.inputs["evaluate"] / "evaluation.json").read_text())


def bundle_one(run: Run, student: Script, teacher: Script | None = None) -> str:
    evaluate(run, student, teacher or Script(replies(never)))
    run.run(GateStage())
    run.run(RecalibrateStage(Outside(serving({"student": student}))))
    for name in BundleStage.needs:
        run.inputs.setdefault(name, run.root)
        run.summaries.setdefault(name, {})
    run.summaries["consent"] = {
        "licences": {
            "sources": [{"source": "teacher", "flag": "allowed", "decision": "used"}],
            "fingerprints": {"teacher": {"fp-1": 90, "fp-0": 10}},
        },
        "rows_in": 10,
        "rows_out": 9,
        "dropped": {"denied": 1},
    }
    return str(run.run(BundleStage(clock=lambda: 5.0))["bundle_id"])
