"""`locum tune --registry`: the result is a bundle derived from another one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from policies.base import RouteDecision, StudentDefaults
from policies.record import Draft
from policies.registry import build_all
from tests.trainer.tune.logs import FEATURES, Log, fill, registry_of, run, run_json, sealed_set


def test_derived_bundle_has_the_threshold_and_the_calibrator_of_its_student(log: Log, tmp_path: Path) -> None:
    registry, bundle_id = registry_of(tmp_path, evaluation_set_sha256="")
    fill(log, student=bundle_id)
    fill(log, 60, student="another-000000000000", start=1000)
    found = run_json(log, "--registry", str(registry.root))
    assert found["n"] == 200
    derived = registry.get(found["bundle_id"])
    assert derived.cascade_threshold == found["threshold"]
    assert registry.manifest(derived.bundle_id).derived_from == bundle_id
    assert registry.current() != derived
    assert derived.calibrator is not None
    student = StudentDefaults(
        bundle_id=derived.bundle_id,
        calibrator=registry.folder(derived.bundle_id) / derived.calibrator,
        cascade_threshold=derived.cascade_threshold,
    )
    (reviewer,) = build_all([{"type": "cascade"}], student=student).reviewers
    assert isinstance(reviewer.review(FEATURES, Draft(text="x", mean_logprob=-2.5)), RouteDecision)
    again = run_json(log, "--registry", str(registry.root), "--bundle", bundle_id)
    assert again["bundle_id"] == found["bundle_id"]
    twin = run_json(log, "--registry", str(registry.root), "--bundle", derived.bundle_id, "--max-teacher-share", "0.1")
    assert twin["n"] == 200  # records of a bundle with the same model count
    text = run(log, "--registry", str(registry.root)).output
    assert f"locum student promote {found['bundle_id']}" in text


def test_test_set_of_the_bundle_is_found_where_its_recipe_had_it(log: Log, tmp_path: Path) -> None:
    sealed = sealed_set(tmp_path / "test.jsonl", ["QUESTION  7", "unrelated"])
    sha256 = hashlib.sha256(sealed.read_bytes()).hexdigest()
    recipe = {"evaluate": {"dataset": str(sealed)}}
    registry, bundle_id = registry_of(tmp_path, evaluation_set_sha256=sha256, recipe=recipe)
    fill(log, student=bundle_id, tags={"set": "tune"})
    refused = run(log, "--registry", str(registry.root))
    assert refused.exit_code == 2
    assert "1 labelled records have messages of the sealed evaluation set" in refused.output
    assert len(registry.list()) == 1
    log.answered(
        "a tune question", "x", route="student", label="x", mean_logprob=-0.1, student=bundle_id, tags={"set": "more"}
    )
    assert run(log, "--registry", str(registry.root), "--tag", "set=more").exit_code == 1  # 1 label, but none is sealed


def test_bundle_whose_test_set_is_missing_is_not_tuned(log: Log, tmp_path: Path) -> None:
    sealed = sealed_set(tmp_path / "test.jsonl", ["unrelated"])
    sha256 = hashlib.sha256(sealed.read_bytes()).hexdigest()
    recipe = {"evaluate": {"dataset": str(tmp_path / "gone.jsonl")}}
    registry, bundle_id = registry_of(tmp_path, evaluation_set_sha256=sha256, recipe=recipe)
    fill(log, student=bundle_id)
    other = sealed_set(tmp_path / "other.jsonl", ["something"])
    for arguments in ([], ["--exclude", str(other)]):
        refused = run(log, "--registry", str(registry.root), *arguments)
        assert refused.exit_code == 2
        assert f"judged on an evaluation set with sha256 {sha256}" in refused.output
        assert "gone.jsonl is not there" in " ".join(refused.output.split())
    found = run_json(log, "--registry", str(registry.root), "--exclude", str(other), "--exclude", str(sealed))
    assert found["sealed_sets"] == 2


def test_damaged_bundle_ends_with_1_and_nothing_is_derived_from_it(log: Log, tmp_path: Path) -> None:
    registry, bundle_id = registry_of(tmp_path)
    fill(log, student=bundle_id)
    os.truncate(registry.root / bundle_id / "model" / "model.safetensors", 20)
    result = run(log, "--registry", str(registry.root))
    assert result.exit_code == 1
    shown = " ".join(result.output.split())
    assert "model.safetensors (20 bytes) has sha256" in shown
    assert "nothing was written" in shown
    assert [bundle.bundle_id for bundle in registry.list()] == [bundle_id]
    assert not list(registry.root.glob(".incoming-*"))
