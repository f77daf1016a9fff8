"""Labels that came after the grades."""

from __future__ import annotations

import pytest

from policies.quality.estimates import Estimates
from policies.quality.judgements import Judgement
from policies.quality.regrading import BY_LABEL, BY_TEACHER, comparison, with_label
from policies.record import Grade, decode_any, encode
from tests.traffic_records import decision, shadow

AGREED = Grade(grader="exact/teacher", student=1.0, teacher=1.0)
DIFFERED = Grade(grader="exact/teacher", student=0.0, teacher=1.0)


@pytest.mark.parametrize(("label", "expected"), [("Paris", (1.0, 0.0)), ("Rome", (0.0, 1.0)), ("Lyon", (0.0, 0.0))])
def test_grade_against_the_teacher_becomes_one_against_the_label(label: str, expected: tuple[float, float]) -> None:
    record = decision(1, route="student", completion="Paris.")
    (grade,) = with_label(shadow(1, completion="Rome", grades=(DIFFERED,)), record, label).grades
    assert (grade.grader, grade.student, grade.teacher) == ("exact/label", *expected)


def test_answers_are_not_swapped_when_the_teacher_was_delivered() -> None:
    record = decision(1, route="teacher", completion="Rome")
    drawn = shadow(1, delivered="teacher", asked="student", completion="Paris", grades=(DIFFERED,))
    (grade,) = with_label(drawn, record, "Rome").grades
    assert (grade.student, grade.teacher) == (0.0, 1.0)


def test_grader_with_a_name_of_its_own_is_made_again_from_what_its_grade_says() -> None:
    about = comparison("about", "numeric", 0.1, BY_TEACHER)
    written = encode(shadow(1, completion="100", grades=(about,)))
    read = decode_any(written)
    record = decision(1, route="student", completion="it is 105")
    assert read.grades == (about,)  # type: ignore[union-attr]
    (grade,) = with_label(read, record, "98").grades  # type: ignore[arg-type]
    assert (grade.grader, grade.student, grade.teacher) == ("about/label", 1.0, 1.0)
    assert b"tolerance" not in encode(shadow(1, grades=(comparison("exact", "exact", 1e-6, BY_LABEL),)))


@pytest.mark.parametrize("name", ["judge/model/v1", "embedding/teacher", "own", "own/teacher"])
def test_grades_that_compare_no_texts_stay_as_they_are(name: str) -> None:
    grade = Grade(grader=name, student=0.5, teacher=0.75)
    record = decision(1, route="student", completion="a")
    assert with_label(shadow(1, completion="b", grades=(grade,)), record, "a").grades == (grade,)


@pytest.mark.parametrize("fields", [{"status": "error"}, {"completion": None}])
def test_shadow_without_an_answer_stays_ungraded(fields: dict[str, object]) -> None:
    drawn = shadow(1, grades=(), **fields)
    assert with_label(drawn, decision(1, route="student"), "a") == drawn


def test_estimates_take_the_label_in_the_place_of_agreement() -> None:
    """Student and teacher agree everywhere; a label says that both are wrong in every other answer."""
    estimates = Estimates(by="grader")
    for number in range(80):
        judgement = Judgement(label="right" if number % 2 else "wrong")
        record = decision(number, route="student", completion="right")
        estimates.add(record, [shadow(number, completion="right", grades=(AGREED,))], judgement)
    figures = estimates.total.as_json()
    assert figures["quality"]["student"]["value"] == pytest.approx(0.5)
    assert figures["quality_loss"]["value"] == pytest.approx(0.0)
    assert figures["labels"]["by_grader"] == {"exact/label": 80}
    assert [part.name for part in estimates.parts] == ["exact/label"]


def test_estimates_count_a_grade_that_waited_for_its_label_once_it_has_come() -> None:
    waiting = comparison("contains", "contains", 1e-6, BY_LABEL)
    estimates = Estimates()
    for number in range(60):
        record = decision(number, route="student", completion="it is Paris")
        judgement = Judgement(label="paris") if number < 40 else None
        estimates.add(record, [shadow(number, completion="Rome", grades=(waiting,))], judgement)
    figures = estimates.total.as_json()
    assert figures["labels"]["by_grader"] == {"contains/label": 40}
    assert figures["labels"]["on_student_answers"] == 40
    assert figures["quality_loss"]["value"] == pytest.approx(-1.0)
