"""Graders that need no judge."""

from __future__ import annotations

import asyncio
import json
import math
from array import array
from pathlib import Path
from typing import Any

import pytest

from policies.record import Grade
from router.config import ConfigError
from router.config.quality import GraderConfig
from router.encoder import Encoder
from router.quality.graders import Graders
from router.quality.pair import Pair

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def pair(student: str, teacher: str, label: str | None = None, **request: Any) -> Pair:
    return Pair("d" * 32, {"task": "math"}, request, student, teacher, label)


def graded(answers: Pair, *configs: GraderConfig, encoder: Encoder | None = None) -> tuple[Grade, ...]:
    return asyncio.run(Graders(configs, judge=None, encoder=encoder).grade(answers)).grades


@pytest.mark.parametrize(
    ("kind", "answers", "expected"),
    [
        ("exact", pair("Paris.", " paris"), ("exact/teacher", 1.0, 1.0)),
        ("exact", pair("Rome", "Paris"), ("exact/teacher", 0.0, 1.0)),
        ("exact", pair("Rome", "Paris", "rome"), ("exact/label", 1.0, 0.0)),
        ("numeric", pair("so it is 1,200.0", "= 1200"), ("numeric/teacher", 1.0, 1.0)),
        ("numeric", pair("12", "13", "13.0"), ("numeric/label", 0.0, 1.0)),
        ("contains", pair("It is Paris, of course", "Lyon", "paris"), ("contains/label", 1.0, 0.0)),
    ],
)
def test_answers_are_compared_with_the_label_or_else_with_the_teacher(
    kind: Any, answers: Pair, expected: tuple[str, float, float]
) -> None:
    (grade,) = graded(answers, GraderConfig(type=kind))
    assert (grade.grader, grade.student, grade.teacher) == expected


def test_numbers_agree_within_the_tolerance() -> None:
    loose = GraderConfig(type="numeric", tolerance=0.01, name="about")
    (grade,) = graded(pair("100.5", "100"), loose)
    assert (grade.grader, grade.student) == ("about/teacher", 1.0)
    assert graded(pair("102", "100"), loose)[0].student == 0.0


@pytest.mark.parametrize(("kind", "answers"), [("numeric", pair("12", "no number")), ("contains", pair("a", "a"))])
def test_grade_waits_for_a_label_when_there_is_nothing_to_compare_with(kind: Any, answers: Pair) -> None:
    (grade,) = graded(answers, GraderConfig(type=kind, name="own"))
    assert grade == Grade(grader="own/label", compares=kind)
    assert not grade.is_scored


def test_grader_is_silent_when_no_schema_is_wanted() -> None:
    assert graded(pair("{}", "{}"), GraderConfig(type="json_schema")) == ()


def test_pattern_is_looked_for_in_each_answer() -> None:
    (grade,) = graded(pair("see [1]", "see below"), GraderConfig(type="regex", pattern=r"\[\d+\]", name="cites"))
    assert (grade.grader, grade.student, grade.teacher) == ("cites", 1.0, 0.0)


def test_answers_are_checked_against_the_schema_of_the_request(tmp_path: Path) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    (grade,) = graded(pair('{"n": "1"}', '{"n": 1}', response_format=wanted), GraderConfig(type="json_schema"))
    assert (grade.grader, grade.student, grade.teacher) == ("json_schema", 0.0, 1.0)
    (grade,) = graded(pair("[]", "{}", response_format={"type": "json_object"}), GraderConfig(type="json_schema"))
    assert (grade.student, grade.teacher) == (0.0, 1.0)
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    (grade,) = graded(pair("no json", '{"n": 2}'), GraderConfig(type="json_schema", schema_file=str(file)))
    assert (grade.student, grade.teacher) == (0.0, 1.0)


def test_schema_that_cannot_be_judged_leaves_the_answers_ungraded() -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"unevaluatedProperties": False}}}
    (grade,) = graded(pair("{}", "{}", response_format=wanted), GraderConfig(type="json_schema"))
    assert (grade.student, grade.teacher) == (None, None)


@pytest.mark.parametrize("content", ["{", '{"type": "wat"}', '{"patternProperties": {}}'])
def test_configured_schema_is_refused_when_it_cannot_be_used(tmp_path: Path, content: str) -> None:
    file = tmp_path / "schema.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match="schema_file"):
        Graders([GraderConfig(type="json_schema", schema_file=str(file))], judge=None, encoder=None)
    with pytest.raises(ConfigError, match="cannot be used"):
        Graders([GraderConfig(type="json_schema", schema_file=str(tmp_path / "none"))], judge=None, encoder=None)


def test_embedding_grades_by_the_cosine_with_the_reference() -> None:
    def embed(texts: list[str]) -> list[array[float]]:
        return [array("f", (math.cos(len(text)), math.sin(len(text)))) for text in texts]

    async def grade(answers: Pair) -> Grade:
        graders = Graders([GraderConfig(type="embedding")], judge=None, encoder=Encoder(embed))
        async with graders:
            return (await graders.grade(answers)).grades[0]

    near = asyncio.run(grade(pair("xxx", "xxxx")))
    assert (near.grader, near.student, near.teacher) == ("embedding/teacher", pytest.approx(math.cos(1)), 1.0)
    far = asyncio.run(grade(pair("x", "xxxx", "xxxx")))
    assert (far.grader, far.student, far.teacher) == ("embedding/label", 0.0, pytest.approx(1.0))


def test_embedding_leaves_answers_ungraded_when_the_model_fails() -> None:
    def broken(texts: list[str]) -> list[array[float]]:
        raise RuntimeError("out of memory")

    (grade,) = graded(pair("a", "b"), GraderConfig(type="embedding"), encoder=Encoder(broken))
    assert (grade.student, grade.teacher) == (None, None)


def test_graders_are_chosen_by_tag_in_order() -> None:
    configs = [
        GraderConfig(type="numeric", tags={"task": "math"}),
        GraderConfig(type="exact", tags={"task": "law"}),
        GraderConfig(type="exact"),
    ]
    assert [grade.grader for grade in graded(pair("1", "1"), *configs)] == ["numeric/teacher", "exact/teacher"]
