"""The stage bundle: what goes into the registry, and what raises an alarm."""

from __future__ import annotations

from typing import Any

import pytest

from policies import calibration, corpus
from policies.corpus import Corpus
from serving.registry import Registry
from tests.trainer.evaluation.conftest import Run, replies, write_cases
from tests.trainer.evaluation.fake_model import Script
from tests.trainer.evaluation.stages import bundle_one, never
from trainer.stages.bundle import BundleStage


@pytest.mark.parametrize(
    ("table", "changes", "same"),
    [
        ("teacher", {"base_url": "http://10.0.0.9:8000/v1", "concurrency": 2}, True),
        ("train", {"threads": 2, "checkpoint_interval_s": 5.0}, True),
        ("environments", {"train_python": "/usr/bin/python3"}, True),
        ("teacher", {"licence": "apache-2.0"}, False),
        ("bundle", {"price_usd_per_1m_input_tokens": 0.1}, False),
    ],
)
def test_bundle_is_keyed_by_what_goes_into_it(run: Run, table: str, changes: dict[str, Any], same: bool) -> None:
    before = BundleStage().key(run.recipe())
    run.options.setdefault(table, {}).update(changes)
    assert (BundleStage().key(run.recipe()) == before) is same


def test_gate_passes_and_the_bundle_can_be_promoted_when_the_student_is_as_good(run: Run) -> None:
    write_cases(run.root / "labels.jsonl", range(1000, 1100))
    run.options["recalibrate"] = {"labels": str(run.root / "labels.jsonl"), "max_teacher_share": 0.2}
    bundle_id = bundle_one(run, Script(replies(lambda i: i >= 1000 and i % 10 == 0)))
    assert run.summaries["gate"]["verdict"] == "pass"
    registry = Registry(run.root / "students")
    assert registry.promote(bundle_id).bundle_id == bundle_id
    bundle, manifest = registry.get(bundle_id), registry.manifest(bundle_id)
    assert bundle.context_window_tokens == 2048
    assert manifest.verdict == "pass"
    assert manifest.teacher.name == "teacher" and len(manifest.teacher.fingerprint) >= 12
    assert manifest.teacher.distillation == "allowed"
    assert manifest.filters["consent"]["dropped"] == {"denied": 1}  # type: ignore[index]
    assert manifest.evaluation["agreement"] == 1.0
    assert {"report.html", "report.json", "calibrator.json"} <= manifest.files.keys()
    fitted = calibration.load(registry.folder(bundle_id) / "calibrator.json")
    assert fitted.n == 100 and fitted.student_model_sha256 == bundle.model_sha256
    assert bundle.cascade_threshold is not None
    learned = Corpus.read(registry.folder(bundle_id))
    assert learned is not None and learned.has([{"role": "user", "content": "something else  entirely."}])
    assert corpus.FILE in manifest.files


def test_bundle_has_no_calibrator_when_labels_are_too_few(run: Run) -> None:
    write_cases(run.root / "labels.jsonl", range(1000, 1020))
    run.options["recalibrate"] = {"labels": str(run.root / "labels.jsonl")}
    bundle_id = bundle_one(run, Script(replies(lambda i: i % 10 == 0)))
    bundle = Registry(run.root / "students").get(bundle_id)
    assert bundle.calibrator is None and bundle.cascade_threshold is None
    assert "Label at least" in str(run.summaries["recalibrate"]["reason"])


def test_bundle_of_a_failed_student_is_kept_and_refused_by_promotion(run: Run) -> None:
    bundle_id = bundle_one(run, Script(replies(lambda i: i % 3 == 0)))
    assert run.summaries["gate"]["verdict"] == "fail"
    registry = Registry(run.root / "students")
    assert registry.manifest(bundle_id).verdict_reasons
    with pytest.raises(Exception, match="is fail, not pass"):
        registry.promote(bundle_id)


def test_bundle_raises_an_alarm_when_the_teacher_changed_since_the_current_one(run: Run) -> None:
    Registry(run.root / "students").promote(bundle_one(run, Script(replies(never))))
    run.options["teacher"]["version"] = "2026-11"
    second = bundle_one(run, Script(replies(never)))
    alarms = Registry(run.root / "students").manifest(second).alarms
    assert any("version has changed" in each and "none -> 2026-11" in each for each in alarms)


def test_bundle_raises_an_alarm_when_another_model_answers_under_the_teachers_name(run: Run) -> None:
    Registry(run.root / "students").promote(bundle_one(run, Script(replies(never))))

    def other(text: str) -> tuple[str, float]:
        return replies(never)(text) if text.startswith("Customer") else ("Certainly!", -0.3)

    second = bundle_one(run, Script(replies(never)), Script(other))
    alarms = Registry(run.root / "students").manifest(second).alarms
    assert any("fingerprint has changed" in each for each in alarms)


def test_bundling_twice_gives_the_same_bundle(run: Run) -> None:
    first = bundle_one(run, Script(replies(never)))
    assert run.run(BundleStage(clock=lambda: 6.0))["bundle_id"] == first
