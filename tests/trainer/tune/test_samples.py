"""A promise needs a random sample: what `locum tune --confidence` makes of labels that are none."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from policies.base import Route, RouteDecision
from policies.record import Draft, Grade, ShadowRecord, encode
from tests.trainer.tune.logs import Log, run, run_json

LOSS = ("--max-quality-loss", "0.03", "--confidence", "0.95")
ESCALATED = RouteDecision(route="teacher", reason="low_confidence", policy="cascade", version="v1")


def cascaded(log: Log, n: int, *, above: float, label: bool, kept_errors: float) -> None:
    """Answers of a cascade in production: those with a logprob below -above were thrown away, and are all wrong. Every
    request is judged: with a label, or by a score of the answer that was delivered."""
    generator = random.Random(n)
    for i in range(n):
        logprob = -generator.uniform(0.01, 2.0)
        rejected = logprob < -above
        wrong = rejected or generator.random() < 2 * kept_errors * -logprob / above
        text = f"wrong {i}" if wrong else "yes"
        draft = Draft(text=text, mean_logprob=logprob, finish_reason="stop", tokens=2, escalated=rejected,
                      review=ESCALATED if rejected else None)  # fmt: skip
        route, answer = ("teacher", "yes") if rejected else ("student", text)
        decision_id = log.answered(f"q {i}", answer, route=route, draft=draft, label="yes" if label else None)
        if not label:
            log.feedback(decision_id, score=float(answer == "yes"))


def test_threshold_stays_where_it_was_when_only_delivered_answers_were_scored(log: Log, tmp_path: Path) -> None:
    """Nobody ever scored a draft that was thrown away: that the kept ones are good says nothing about it."""
    cascaded(log, 1500, above=1.0, label=False, kept_errors=0.01)
    found = run_json(log, "--out", str(tmp_path / "out"), *LOSS)
    assert found["teacher_share"][0] > 0.45
    share = ("--max-teacher-share", "0.2")
    for wish in ((*LOSS, *share), ("--confidence", "0.95", *share)):
        result = run(log, "--out", str(tmp_path / "b"), *wish)
        assert result.exit_code == 1
        assert "only the teacher's answer could be judged" in result.output


def test_answers_that_were_kept_count_when_the_teacher_was_judged_on_escalated_ones_alone(
    log: Log, tmp_path: Path
) -> None:
    """Labels on all requests of a cascade: of those it kept, a tenth is wrong, and the teacher never answered them."""
    cascaded(log, 2000, above=0.7, label=True, kept_errors=0.1)
    found = run_json(log, "--out", str(tmp_path / "out"), *LOSS)
    assert found["certificate"]["n"] == 2000
    assert found["n_teacher_assumed"] > 500
    assert found["teacher_share"][0] > 0.65  # escalating as it did would lose 3.5 points
    result = run(log, "--out", str(tmp_path / "out"), *LOSS)
    assert "nobody has judged the teacher's answer: it counts as right" in result.output


def test_one_label_is_one_row_when_many_records_have_the_same_messages(log: Log, tmp_path: Path) -> None:
    for i in range(900):
        log.answered("ping", "pong", route="student", label="pong" if i == 0 else None, mean_logprob=-0.1 - i / 1e4)
    for i in range(40):
        log.answered(f"q {i}", "no" if i > 34 else "yes", route="student", label="yes", mean_logprob=-0.1 - i / 40)
    result = run(log, "--out", str(tmp_path / "out"), *LOSS)
    assert result.exit_code == 1, result.output


def test_label_on_the_teachers_record_makes_one_row_of_the_students(log: Log, tmp_path: Path) -> None:
    for i in range(1200):
        answer = "no" if i > 1190 else "yes"
        log.answered(f"q {i}", answer, route="student", mean_logprob=-0.1 - i / 1e3)
        log.answered(f"q {i}", answer, route="student", mean_logprob=-0.1 - i / 1e3)
        log.answered(f"q {i}", "yes", route="teacher", label="yes")
    assert run_json(log, "--out", str(tmp_path / "out"), *LOSS)["certificate"]["n"] == 1200


@pytest.mark.parametrize("both", [False, True])
def test_shadow_answers_to_kept_requests_alone_say_nothing_of_the_others(log: Log, tmp_path: Path, both: bool) -> None:
    shadow_all(log, both=both)
    found = run_json(log, "--out", str(tmp_path / "out"), *LOSS)
    assert (found["teacher_share"][0] > 0.45) is not both


def shadow_all(log: Log, *, both: bool, backend_fingerprint: str | None = None) -> None:
    """Shadow answers of which few are wrong, to the requests that were kept, or to all."""
    generator = random.Random(3)
    for i in range(1500):
        logprob = -generator.uniform(0.01, 2.0)
        rejected = logprob < -1.0
        draft = Draft(text="yes", mean_logprob=logprob, finish_reason="stop", tokens=2, escalated=rejected,
                      review=ESCALATED if rejected else None)  # fmt: skip
        delivered: Route = "teacher" if rejected else "student"
        asked: Route = "student" if rejected else "teacher"
        decision_id = log.answered(
            f"q {i}", "yes", route=delivered, draft=draft, backend_fingerprint=backend_fingerprint if rejected else None
        )
        if rejected and not both:
            continue
        wrong = generator.random() < -0.02 * logprob
        grade = Grade(grader="exact/label", student=float(not wrong), teacher=1.0)
        log._write(encode(ShadowRecord(
            schema=1, decision_id=decision_id, created_s=9e3, student="s-0", teacher="t", delivered=delivered,
            asked=asked, propensity=0.5, status="ok", grades=(grade,),
            backend_fingerprint=None if rejected else backend_fingerprint,
        )))  # fmt: skip


def test_certificate_names_fingerprints_of_judged_answers_alone(log: Log, tmp_path: Path) -> None:
    """The teacher that answers now is not the one whose answers were judged: the certificate has to be void for it."""
    shadow_all(log, both=True, backend_fingerprint="then")
    log.answered("later", "yes", route="teacher", backend_fingerprint="now")
    found = run_json(log, "--out", str(tmp_path / "out"), *LOSS)
    assert found["certificate"]["teacher_fingerprints"] == ["then"]


def test_lowest_propensity_is_refused_when_a_request_was_drawn_with_less(log: Log, tmp_path: Path) -> None:
    shadow_all(log, both=True)
    result = run(log, "--out", str(tmp_path / "out"), *LOSS, "--min-propensity", "0.6")
    assert result.exit_code == 2
    assert "--min-propensity: some were drawn with a probability of 0.5" in result.output
    found = run_json(log, "--out", str(tmp_path / "out"), *LOSS, "--min-propensity", "0.4")
    assert found["certificate"]["n"] == 1500
