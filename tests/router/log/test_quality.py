"""`locum log quality`: what it prints and how it ends."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from policies.record import Grade
from tests.router.log.running import run
from tests.traffic_records import NOON_S, decision, judgement, shadow, write_segment


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """500 requests, 400 of them by the student, of which every other one is graded: it loses one of ten."""
    chance, folder = random.Random(1), tmp_path / "traffic"
    records = [
        decision(n, route="student" if n % 5 else "teacher", tags={"team": "a" if n % 2 else "b"}) for n in range(500)
    ]
    shadows = [
        shadow(
            n,
            delivered="student" if n % 5 else "teacher",
            asked="teacher" if n % 5 else "student",
            propensity=0.5,
            grades=(Grade(grader="judge", student=float(chance.random() < 0.9), teacher=1.0),),
        )
        for n in range(0, 500, 2)
    ]
    write_segment(folder, "a", records)
    write_segment(folder, "b", [*shadows, *(judgement(n, score=0.75) for n in range(40))])
    return folder


def test_quality_prints_the_loss_with_its_interval(log: Path) -> None:
    result = run("quality", log, "--by", "tag:team")
    assert result.exit_code == 0, result.output
    assert "Quality loss against all-teacher: +" in result.output
    assert "paired on 200 answers of the student" in result.output
    assert "more labels are needed" in result.output
    assert "Graded by: judge 250." in result.output


def test_quality_gives_json_that_a_program_can_read(log: Path) -> None:
    figures = json.loads(run("quality", log, "--json", "--by", "tag:team").stdout)
    loss = figures["total"]["quality_loss"]
    assert set(loss) == {"value", "low", "high", "n"}
    assert loss["low"] < 0.08 < loss["high"]
    assert figures["total"]["requests"] == {"student": 400, "teacher": 100}
    assert figures["total"]["feedback"]["student"]["value"] == 0.75
    assert {part["name"] for part in figures["parts"]} == {"a", "b"}
    assert next(part for part in figures["parts"] if part["name"] == "a")["labels"]["shadow"] == 0


def test_quality_counts_only_requests_since_a_date(log: Path) -> None:
    assert NOON_S == 1_763_812_800.0
    figures = json.loads(run("quality", log, "--json", "--since", "2025-11-22T12:05").stdout)
    assert sum(figures["total"]["requests"].values()) == 200
    assert "no answered request" in run("quality", log, "--since", "1m").output


def test_quality_takes_a_label_that_came_after_the_answers_were_graded(tmp_path: Path) -> None:
    """Agreement with the teacher is complete; by the labels the student is right in half of its answers."""
    agreed = Grade(grader="exact/teacher", student=1.0, teacher=1.0)
    write_segment(tmp_path, "a", [decision(n, route="student", completion="yes") for n in range(40)])
    write_segment(tmp_path, "b", [shadow(n, propensity=1.0, completion="Yes", grades=(agreed,)) for n in range(40)])
    before = json.loads(run("quality", tmp_path, "--json").stdout)["total"]
    assert before["quality"]["student"]["value"] == 1.0
    write_segment(tmp_path, "c", [judgement(n, label="yes" if n % 2 else "no") for n in range(40)])
    after = json.loads(run("quality", tmp_path, "--json").stdout)["total"]
    assert after["quality"]["student"]["value"] == after["quality"]["all_teacher"]["value"] == 0.5
    assert after["labels"]["by_grader"] == {"exact/label": 40}


def test_label_of_another_tenant_grades_nothing(tmp_path: Path) -> None:
    agreed = Grade(grader="exact/teacher", student=1.0, teacher=1.0)
    write_segment(tmp_path, "a", [decision(n, route="student", completion="yes") for n in range(40)])
    write_segment(tmp_path, "b", [shadow(n, propensity=1.0, completion="yes", grades=(agreed,)) for n in range(40)])
    write_segment(tmp_path, "c", [judgement(n, label="no", tenant="other") for n in range(40)])
    assert json.loads(run("quality", tmp_path, "--json").stdout)["total"]["labels"]["by_grader"] == {
        "exact/teacher": 40
    }


def test_quality_says_how_many_labels_are_missing_when_there_are_too_few(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1, route="student"), shadow(1)])
    result = run("quality", tmp_path)
    assert result.exit_code == 0
    assert "too few labels to say (1 of 30 at least); about " in result.output


@pytest.mark.parametrize("wrong", [("--by", "colour"), ("--since", "yesterday")])
def test_quality_refuses_options_that_it_does_not_understand(log: Path, wrong: tuple[str, str]) -> None:
    result = run("quality", log, *wrong)
    assert result.exit_code == 2
    assert wrong[1] in result.output
