"""`locum tune --confidence`: from a traffic log to a certificate, or to what is missing."""

from __future__ import annotations

import json
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest

from policies.base import RequestFeatures, RouteDecision, StudentDefaults
from policies.certificate import load
from policies.chain import Vote
from policies.record import Draft, Grade, ShadowRecord, encode
from policies.registry import build_all
from tests.trainer.tune.logs import FEATURES, Log, fill, registry_of, run, run_json

LOSS = ("--max-quality-loss", "0.04", "--confidence", "0.95")


def shadowed(log: Log, n: int, *, propensity: float = 0.5, tag: str | None = None, **fields: Any) -> None:
    """Answers of the student of which half were put to the teacher: it errs where its logprob is low."""
    generator = random.Random(n)
    for i in range(n):
        logprob = -generator.expovariate(2.0)
        wrong = generator.random() < 0.4 * (1 - 2.718**logprob) ** 2
        tags = {} if tag is None else {tag: "ab"[i % 2] if i % 25 else "rare"}
        decision_id = log.answered(
            f"question {i}", "an answer", route="student", mean_logprob=logprob, tags=tags, cost_usd=0.0001,
            counterfactual_cost_usd=0.001, **fields,
        )  # fmt: skip
        if generator.random() < propensity:
            grade = Grade(grader="exact/label", student=0.0 if wrong else 1.0, teacher=1.0)
            log._write(
                encode(
                    ShadowRecord(
                        schema=1,
                        decision_id=decision_id,
                        created_s=9e3,
                        student="s-0",
                        teacher="t",
                        delivered="student",
                        asked="teacher",
                        propensity=propensity,
                        status="ok",
                        grades=(grade,),
                    )
                )
            )


def test_tune_writes_threshold_and_certificate_when_the_loss_is_proven(log: Log, tmp_path: Path) -> None:
    fill(log, 1200)
    result = run(log, "--out", str(tmp_path / "out"), *LOSS)
    assert result.exit_code == 0, result.output
    assert "CERTIFIED: at most 4 points are lost against all to t, with 0.95 confidence" in result.output
    certificate = load(tmp_path / "out" / "certificate.json")
    assert (certificate.n, certificate.labels, certificate.student, certificate.teacher) == (
        1200,
        "feedback",
        "s-0",
        "t",
    )
    (table,) = tomllib.loads((tmp_path / "out" / "cascade.toml").read_text())["routing"]["policies"]
    built = build_all([table], student=StudentDefaults(bundle_id="s-0"))
    (standing,) = built.standings
    assert standing.valid and standing.certificate == certificate
    assert not build_all([table], student=StudentDefaults(bundle_id="s-9")).standings[0].valid
    shares = [review(built.reviewers[0], -x / 500) for x in range(1000)]
    assert 0 < sum(shares) < 1000
    assert shares == sorted(shares)  # the lower the logprob, the sooner it escalates


def review(reviewer: Any, logprob: float) -> bool:
    decision = reviewer.review(FEATURES, Draft(text="x", finish_reason="stop", mean_logprob=logprob, tokens=3))
    return isinstance(decision, RouteDecision) and decision.route == "teacher"


def test_tune_uses_shadow_answers_with_their_propensity_when_nobody_labelled(log: Log, tmp_path: Path) -> None:
    shadowed(log, 1600)
    found = run_json(log, "--out", str(tmp_path / "out"), *LOSS)
    certificate = found["certificate"]
    assert certificate["labels"] == "shadow"
    assert 700 < certificate["n"] < 900
    assert found["n_traffic"] == 1600
    low, high = found["teacher_share"][1:]
    assert 0 <= low < found["teacher_share"][0] < high < 0.6


def test_different_answers_count_as_lost_until_somebody_says_which_is_right(log: Log, tmp_path: Path) -> None:
    """Graded by agreement with the teacher, of which one answer in ten differs: half of these are better ones."""
    generator = random.Random(5)
    labels = {}
    for i in range(1500):
        differs = i % 10 == 0
        logprob = -generator.uniform(0.3, 3.0) if i % 20 == 10 else -generator.uniform(0.01, 1.0)
        answer = "mine" if differs else "same"
        decision_id = log.answered(f"question {i}", answer, route="student", mean_logprob=logprob)
        grade = Grade(grader="exact/teacher", student=0.0 if differs else 1.0, teacher=1.0)
        log._write(encode(ShadowRecord(
            schema=1, decision_id=decision_id, created_s=9e3, student="s-0", teacher="t", delivered="student",
            asked="teacher", propensity=0.1, status="ok", completion="same", grades=(grade,),
        )))  # fmt: skip
        if differs:
            labels[decision_id] = "mine" if i % 20 == 0 else "same"
    wish = ("--max-teacher-share", "0.2", "--confidence", "0.95")
    before = run_json(log, "--out", str(tmp_path / "a"), *wish)
    for decision_id, label in labels.items():
        log.feedback(decision_id, label=label)
    after = run_json(log, "--out", str(tmp_path / "b"), *wish)
    assert (before["n_assumed_wrong"], after["n_assumed_wrong"]) == (150, 0)
    assert after["certificate"]["n"] == before["certificate"]["n"] == 1500
    assert before["certificate"]["max_quality_loss"] > 0.05
    assert after["certificate"]["max_quality_loss"] < 0.03


def test_tune_is_infeasible_when_share_and_loss_contradict_each_other(log: Log, tmp_path: Path) -> None:
    fill(log, 1500)
    out = ("--out", str(tmp_path / "out"))
    result = run(
        log, *out, "--max-quality-loss", "0.03", "--confidence", "0.95", "--max-teacher-share", "0.05", "--json"
    )
    assert result.exit_code == 1
    answer = json.loads(result.stdout.splitlines()[0])
    assert answer["missing_labels"] is None
    assert "INFEASIBLE" in answer["error"] and "surely more" in answer["error"]
    assert not (tmp_path / "out").exists()


def test_tune_says_how_many_labels_are_missing_when_there_are_too_few(log: Log, tmp_path: Path) -> None:
    fill(log, 150)
    result = run(log, "--out", str(tmp_path / "out"), "--max-quality-loss", "0.01", "--confidence", "0.95", "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout.splitlines()[0])
    assert 50 < answer["missing_labels"] < 5000
    assert f"about {answer['missing_labels']} more labels" in answer["error"]


def test_tune_bounds_the_loss_when_only_a_share_or_a_budget_is_given(log: Log, tmp_path: Path) -> None:
    shadowed(log, 1500)
    share = run_json(log, "--out", str(tmp_path / "a"), "--max-teacher-share", "0.2", "--confidence", "0.9")
    assert share["teacher_share"][0] <= 0.2
    assert 0.0 <= share["certificate"]["max_quality_loss"] < 0.08
    # 1,500 requests in 1,499 s; the student costs 0.0001 and the teacher 0.001 for each
    per_day = 1500 * 86_400 / 1499
    budget = per_day * (0.0001 + 0.2 * 0.001)
    paid = run_json(log, "--out", str(tmp_path / "b"), "--budget-usd-per-day", str(budget), "--confidence", "0.9")
    assert paid["affordable_share"] == pytest.approx(0.2, abs=1e-6)
    assert paid["certificate"]["threshold"] == share["certificate"]["threshold"]


def test_tune_is_infeasible_when_the_budget_does_not_pay_the_student(log: Log, tmp_path: Path) -> None:
    shadowed(log, 300)
    result = run(log, "--out", str(tmp_path / "a"), "--budget-usd-per-day", "1", "--confidence", "0.9")
    assert result.exit_code == 1
    assert "less than the student alone costs" in result.output


def test_tune_sets_a_threshold_for_each_value_of_a_tag_when_it_has_labels_enough(log: Log, tmp_path: Path) -> None:
    shadowed(log, 3000, propensity=1.0, tag="team")
    found = run_json(log, "--out", str(tmp_path / "out"), *LOSS, "--per-tag", "team")
    *own, rest = found["certificate"]["groups"]
    assert {value for group in own for value in group["values"]} == {"a", "b"}
    assert rest["values"] == [] and rest["threshold"] <= min(group["threshold"] for group in own)
    (table,) = tomllib.loads((tmp_path / "out" / "cascade.toml").read_text())["routing"]["policies"]
    built = build_all([table], student=StudentDefaults(bundle_id="s-0"))
    assert built.standings[0].valid
    thresholds = {
        value: built.reviewers[0].threshold_for(_tagged(value))  # type: ignore[attr-defined]
        for value in ("a", "b", "rare", "new")
    }
    by_value = {group["values"][0]: group["threshold"] for group in own}
    assert thresholds == {**by_value, "rare": rest["threshold"], "new": rest["threshold"]}


def test_tune_writes_a_certificate_when_a_group_has_hardly_any_traffic(log: Log, tmp_path: Path) -> None:
    shadowed(log, 1500, tag="team")
    found = run_json(log, "--out", str(tmp_path / "out"), *LOSS, "--per-tag", "team")
    rest = found["certificate"]["groups"][-1]
    assert rest["n"] < 100 and rest["teacher_share"]["estimate"] == 1.0
    assert load(tmp_path / "out" / "certificate.json").groups[-1].n == rest["n"]


def _tagged(value: str) -> RequestFeatures:
    return RequestFeatures(
        prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1, tags={"team": value}
    )


def test_tune_takes_the_votes_of_a_policy_when_it_is_named(log: Log, tmp_path: Path) -> None:
    generator = random.Random(4)
    for i in range(1200):
        score = generator.random() ** 2
        right = generator.random() > 0.5 * score**2
        vote = Vote(policy="difficulty", route=None, reason="student_enough", score=score, threshold=0.9)
        label = f"intent_{i % 7}"
        log.answered(f"q {i}", label if right else "no", route="student", label=label, votes=(vote,))
        log.answered(f"q {i}", label, route="teacher")
    document = tmp_path / "policy.json"
    model = tmp_path / "m.json"
    model.write_text(json.dumps({"sha256": "a" * 64, "schema": 1}))
    tables = [
        {"type": "long_context"},
        {"type": "difficulty", "mode": "shadow", "model": "new.json"},
        {"type": "difficulty", "model": str(model), "threshold": 0.9},
    ]
    document.write_text(json.dumps({"version": 3, "document": {"routing": {"policies": tables}}}))
    found = run_json(
        log, "--out", str(tmp_path / "out"), *LOSS, "--score", "difficulty", "--document", str(document)
    )  # fmt: skip
    certificate = found["certificate"]
    assert (certificate["policy"], certificate["score"], certificate["score_sha256"]) == (
        "difficulty", "vote", "a" * 64,
    )  # fmt: skip
    assert not (tmp_path / "out" / "calibrator.json").exists()
    changed = json.loads((tmp_path / "out" / "policy.json").read_text())
    assert changed["version"] == 3
    assert changed["document"]["routing"]["policies"][:2] == tables[:2]
    assert changed["document"]["routing"]["policies"][2] == {
        "type": "difficulty", "model": str(model), "threshold": certificate["threshold"],
        "certificate": str(tmp_path / "out" / "certificate.json"),
    }  # fmt: skip


def test_tune_seals_the_certificate_into_a_derived_bundle_when_a_registry_is_given(log: Log, tmp_path: Path) -> None:
    registry, bundle_id = registry_of(tmp_path, evaluation_set_sha256="")
    fill(log, 1200, student=bundle_id)
    found = run_json(log, "--registry", str(tmp_path / "students"), *LOSS)
    derived, _ = registry.verified(found["bundle_id"]), registry.manifest(found["bundle_id"])
    assert derived.certificate == "certificate.json"
    path = registry.folder(derived.bundle_id) / derived.certificate
    student = StudentDefaults(
        bundle_id=derived.bundle_id, calibrator=registry.folder(derived.bundle_id) / "calibrator.json",
        cascade_threshold=derived.cascade_threshold, certificate=path, model_sha256=derived.model_sha256,
    )  # fmt: skip
    (standing,) = build_all([{"type": "cascade"}], student=student).standings
    assert standing.valid, standing.causes
    again = registry.derive(derived.bundle_id, calibrator=None, cascade_threshold=0.9)
    assert again.certificate is None and registry.verified(again.bundle_id)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--per-tag", "team", "--max-quality-loss", "0.1"], "--per-tag: takes --confidence as well"),
        (["--confidence", "0.95"], "--confidence: say what is to be proven"),
        (["--confidence", "0.95", "--max-quality-loss", "0"], "--max-quality-loss: with --confidence it is above 0"),
        (
            ["--confidence", "0.95", "--max-teacher-share", "0.1", "--per-tag", "x"],
            "--per-tag: takes --max-quality-loss",
        ),
        (["--confidence", "0.9", "--budget-usd-per-day", "5"], "--budget-usd-per-day: the records do not tell"),
    ],
)
def test_tune_refuses_options_when_they_make_no_sense_together(
    log: Log, tmp_path: Path, arguments: list[str], message: str
) -> None:
    fill(log, 60)
    result = run(log, "--out", str(tmp_path / "a"), *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())


def test_tune_refuses_records_of_two_teachers_when_a_promise_is_asked_for(log: Log, tmp_path: Path) -> None:
    fill(log, 60)
    fill(log, 60, start=100, teacher="t2")
    result = run(log, "--out", str(tmp_path / "a"), *LOSS)
    assert result.exit_code == 2
    assert "several teachers" in result.output and "teacher = 't'" in result.output
