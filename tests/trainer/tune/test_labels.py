"""Which records of a log `locum tune` takes, and what it takes for a label."""

from __future__ import annotations

import json
from pathlib import Path

from policies.draft_signals import DraftSignals
from policies.record import Draft
from tests.trainer.tune.logs import Log, fill, run, run_json, sealed_set


def test_draft_that_a_cascade_threw_away_is_graded_beside_the_teachers_answer(log: Log, tmp_path: Path) -> None:
    for i in range(100):
        wrong = i % 4 == 0
        draft = Draft(
            text="wrong" if wrong else "yes", mean_logprob=-2.0 - i / 999 if wrong else -0.1 - i / 999, escalated=wrong
        )
        answer, route = ("yes", "teacher") if wrong else ("yes", "student")
        log.answered(f"q {i}", answer, route=route, label="yes", draft=draft)
    found = run_json(log, "--out", str(tmp_path / "tuned"), "--max-teacher-share", "0.3")
    assert (found["n"], found["n_paired"], found["student_accuracy"]["estimate"]) == (100, 25, 0.75)
    assert found["teacher_assumed_right"]  # 25 pairs are too few


def test_streams_that_were_judged_by_their_beginning_are_left_out(log: Log, tmp_path: Path) -> None:
    fill(log)
    for escalated in (True, False):
        draft = Draft(text="ye", mean_logprob=-0.4, tokens=1, prefix=True, escalated=escalated)
        log.answered("?", "yes", route="teacher" if escalated else "student", label="yes", draft=draft)
    found = run_json(log, "--out", str(tmp_path / "tuned"))
    assert (found["n"], found["left_out"]["prefix"]) == (200, 2)


def test_scores_label_where_no_label_is_and_a_later_judgement_counts(log: Log, tmp_path: Path) -> None:
    for i in range(80):
        bad = i % 4 == 0
        decision_id = log.answered(f"q {i}", "?", route="student", mean_logprob=-2.0 - i / 99 if bad else -0.3 - i / 99)
        log.feedback(decision_id, score=0.0 if i == 1 else 0.2 if bad else 0.9)
        if i == 1:
            log.feedback(decision_id, score=1.0)
    found = run_json(log, "--out", str(tmp_path / "tuned"))
    assert found["student_accuracy"]["estimate"] == 0.75


def test_empty_answer_counts_as_escalated_and_not_as_missing(log: Log, tmp_path: Path) -> None:
    fill(log)
    log.answered("nothing to say", "", route="student", label="x")
    log.answered("blanks", " ", route="student", label="x", mean_logprob=-0.2)
    found = run_json(log, "--out", str(tmp_path / "tuned"))
    assert (found["n"], found["n_empty"], found["left_out"]["without_logprob"]) == (202, 2, 0)
    assert found["share_on_rows"] <= 0.2


def test_draft_that_failed_a_check_counts_as_escalated_like_an_empty_one(log: Log, tmp_path: Path) -> None:
    fill(log)
    refused = DraftSignals(mean_logprob=-0.1, failed=("refused",))
    draft = Draft(text="I can't help with that.", mean_logprob=-0.1, escalated=True, signals=refused)
    log.answered("?", "yes", route="teacher", label="yes", draft=draft)
    found = run_json(log, "--out", str(tmp_path / "tuned"))
    assert (found["n"], found["n_empty"]) == (201, 1)


def test_record_without_its_text_does_not_count_beside_a_sealed_set(log: Log, tmp_path: Path) -> None:
    fill(log)
    unseen = log.answered(
        "?", "?", route="student", mean_logprob=-0.4, request=None, completion=None, capture="metadata"
    )
    log.feedback(unseen, score=1.0)
    assert run_json(log, "--out", str(tmp_path / "tuned"))["n"] == 201
    sealed = sealed_set(tmp_path / "test.jsonl", ["unrelated"])
    found = run_json(log, "--out", str(tmp_path / "tuned"), "--exclude", str(sealed))
    assert (found["n"], found["left_out"]["not_comparable"]) == (200, 1)


def test_purposes_tags_and_sql_choose_the_records(log: Log, tmp_path: Path) -> None:
    fill(log, 100, purpose="eval", tags={"set": "tune"})
    fill(log, 60, start=500, tags={"set": "tune"})
    fill(log, 70, start=700)
    out = ["--out", str(tmp_path / "tuned")]
    assert run_json(log, *out)["n"] == 130
    assert run_json(log, *out, "--purpose", "eval")["n"] == 100
    assert run_json(log, *out, "--purpose", "eval,traffic", "--tag", "set=tune")["n"] == 160
    assert run_json(log, *out, "--purpose", "eval", "--where", "purpose = 'eval' and created_s < 1141")["n"] == 70


def test_damaged_record_is_skipped_and_counted(log: Log, tmp_path: Path) -> None:
    fill(log, pairs=False)
    segment = next(log.folder.glob("*.seg"))
    first, *rest = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(first.replace(b"question", b"qvestion") + b"".join(rest))
    for where in ([], ["--where", "true"]):
        found = run_json(log, "--out", str(tmp_path / "tuned"), *where)
        assert (found["n"], found["damaged"]) == (199, 1)
    assert "1 damaged places of the log" in run(log, "--out", str(tmp_path / "tuned")).output


def test_excluded_prompts_are_refused_whatever_their_spelling_and_system_prompt(log: Log, tmp_path: Path) -> None:
    fill(log)
    sealed = sealed_set(tmp_path / "test.jsonl", [" Question   12"])
    refused = run(log, "--out", str(tmp_path / "tuned"), "--exclude", str(sealed))
    assert refused.exit_code == 2
    assert "r-000" in refused.output
    assert not (tmp_path / "tuned").exists()


def test_too_few_labels_end_with_1_and_say_how_many_are_missing(log: Log, tmp_path: Path) -> None:
    fill(log, 30)
    result = run(log, "--out", str(tmp_path / "tuned"), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["missing_labels"] == 20
    assert "Label at least 20 more" in result.stderr
    assert not (tmp_path / "tuned").exists()
