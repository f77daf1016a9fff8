"""Quality estimates on simulated traffic whose truth is known."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import pytest

from policies.base import escalate
from policies.quality.estimates import LABELS_FROM_NOTHING, Estimates
from policies.quality.judgements import Judgement
from policies.record import Draft, Grade, Held, LateEnding
from tests.effort import examples
from tests.traffic_records import decision, shadow


def grade(student: float | None, teacher: float | None, **fields: Any) -> Grade:
    return Grade(grader="exact", student=student, teacher=teacher, **fields)


def simulated(chance: random.Random, n: int) -> tuple[Estimates, float]:
    """Traffic of which the student answers the easy part; uncertain answers are drawn five times as often.

    Returns the estimates, and the true loss over these very requests.
    """
    estimates, lost = Estimates(), 0.0
    for number in range(n):
        hardness = chance.random()
        route = "student" if hardness < 0.8 else "teacher"
        teacher = float(chance.random() < 0.97 - 0.1 * hardness)
        student = float(chance.random() < 0.99 - 0.5 * hardness)
        propensity = 0.25 if hardness > 0.6 else 0.05
        shadows = []
        if chance.random() < propensity:
            shadows = [
                shadow(
                    number,
                    delivered=route,
                    asked="teacher" if route == "student" else "student",
                    propensity=propensity,
                    grades=(grade(student, teacher),),
                )
            ]
        estimates.add(decision(number, route=route), shadows)
        lost += teacher - student if route == "student" else 0.0
    return estimates, lost / n


def test_loss_is_unbiased_and_covered_when_uncertain_answers_are_drawn_more_often() -> None:
    chance, covered, error, trials = random.Random(5), 0, 0.0, examples(60)
    for _ in range(trials):
        estimates, truth = simulated(chance, 2500)
        loss = estimates.total.loss()
        assert loss is not None
        covered += loss.low <= truth <= loss.high
        error += (loss.value - truth) / trials
    assert covered / trials > 0.95 - 2 * math.sqrt(0.95 * 0.05 / trials)
    assert abs(error) < 0.08 / math.sqrt(trials)  # one has a standard error of 0.03


def test_mix_lies_between_all_student_and_all_teacher_when_routing_is_sensible() -> None:
    estimates, _ = simulated(random.Random(6), 20_000)
    total = estimates.total
    mix, teacher, student = total.mix(), total.all_of("teacher"), total.all_of("student")
    assert mix is not None
    assert teacher is not None
    assert student is not None
    assert student.value < mix.value < teacher.value
    loss = total.loss()
    assert loss is not None
    assert loss.half_width < teacher.half_width + mix.half_width  # paired
    assert teacher.value - mix.value == pytest.approx(loss.value, abs=1e-9)


def test_estimates_are_withheld_and_missing_labels_named_when_labels_are_few() -> None:
    estimates = Estimates()
    for number in range(100):
        shadows = [shadow(number, grades=(grade(0.0, 1.0),))] if number < 5 else []
        estimates.add(decision(number, route="student"), shadows)
    figures = estimates.total.as_json()
    assert figures["quality_loss"] is None
    assert figures["quality"]["student"] is None
    assert figures["labels"]["on_student_answers"] == 5
    assert figures["labels"]["missing_for_1_point"] > 1000
    assert Estimates().total.as_json()["labels"]["missing_for_1_point"] == LABELS_FROM_NOTHING


def test_missing_labels_make_the_interval_as_narrow_as_promised() -> None:
    chance = random.Random(7)

    def graded(n: int) -> Estimates:
        estimates = Estimates()
        for number in range(n):
            scores = chance.choices(((1.0, 1.0), (0.0, 1.0), (1.0, 0.0)), weights=(0.9, 0.07, 0.03))[0]
            estimates.add(decision(number, route="student"), [shadow(number, grades=(grade(*scores),))])
        return estimates

    more = graded(400).total.missing()
    loss = graded(400 + more).total.loss()
    assert loss is not None
    assert loss.half_width == pytest.approx(0.01, rel=0.25)


def test_parts_add_up_to_the_total_and_are_bounded_when_a_tag_has_many_values() -> None:
    estimates = Estimates(by="tag:user")
    for number in range(300):
        estimates.add(decision(number, route="student", tags={"user": str(number % 150)}))
    assert sum(part.requests for part in estimates.parts) == estimates.total.requests == 300
    assert len(estimates.parts) == 101
    assert estimates.parts[0].name == "other"


def test_only_answered_traffic_counts() -> None:
    estimates = Estimates()
    estimates.add(decision(1, purpose="eval"))
    estimates.add(decision(2, outcome="backend_error", route=None))
    estimates.add(decision(3, outcome="degraded", route="student"))
    assert estimates.total.as_json()["requests"] == {"student": 1, "teacher": 0}


def test_skipped_shadows_lower_the_coverage_and_not_the_quality() -> None:
    estimates = Estimates()
    for number in range(100):
        fields: dict[str, Any] = {} if number < 75 else {"status": "skipped_budget", "grades": ()}
        estimates.add(decision(number, route="student"), [shadow(number, **fields)])
    figures = estimates.total.as_json()
    assert figures["coverage"]["value"] == 0.75
    assert figures["quality"]["student"]["value"] == 1.0
    assert figures["drawn"] == {"ok": 75, "skipped_budget": 25}


def test_feedback_is_kept_apart_from_the_sample() -> None:
    estimates = Estimates(by="route")
    for number in range(60):
        judgement = Judgement(score=0.0) if number < 40 else Judgement(label="a text is no score")
        judged = Grade(grader="judge", student=1.0, teacher=1.0)  # which no label changes
        estimates.add(decision(number, route="student"), [shadow(number, grades=(judged,))], judgement)
    figures = estimates.as_json()
    assert figures["total"]["feedback"]["student"]["n"] == 40
    assert figures["total"]["quality"]["student"]["value"] == 1.0
    assert figures["parts"][0]["name"] == "student"


def test_answer_counts_for_no_model_when_a_teacher_ended_what_the_student_began() -> None:
    estimates = Estimates()
    late = LateEnding(tokens=20, action="continue", alarm=escalate("late"))
    begun = Draft(text="The", prefix=True, window=Held(held_s=0.1, late=late))
    marked = Draft(text="The", prefix=True, window=Held(held_s=0.1, late=msgspec.structs.replace(late, action="mark")))
    for number in range(120):
        draft = (None, begun, marked)[number % 3]
        score = 1.0 if draft is begun else 0.0
        shadows = [shadow(number, grades=(grade(score, 1.0),))]
        estimates.add(decision(number, route="student", draft=draft), shadows, Judgement(score=score))
    figures = estimates.as_json()["total"]
    assert (figures["feedback"]["student"]["n"], figures["feedback"]["student"]["value"]) == (80, 0.0)
    assert figures["quality"]["student"]["value"] == 0.0
    assert figures["requests"]["student"] == 80


def test_position_bias_of_a_judge_is_found() -> None:
    estimates, chance = Estimates(), random.Random(8)
    for number in range(200):
        bias = 0.1 if chance.random() < 0.9 else -0.1
        judged = grade(
            0.5, 0.5, preferred="tie", consistent=number % 4 > 0,
            student_when_first=0.5 + bias, student_when_second=0.5 - bias,
        )  # fmt: skip
        estimates.add(decision(number, route="student"), [shadow(number, grades=(judged,))])
    judge = estimates.total.as_json()["judge"]
    assert judge["position_bias"]["low"] > 0.1
    assert judge["consistent"]["value"] == 0.75
    assert judge["preferred"] == {"tie": 200}


def test_the_first_grader_that_scores_both_answers_counts() -> None:
    estimates = Estimates()
    grades = (grade(0.0, None), grade(0.25, 0.75), grade(1.0, 0.0))
    for number in range(40):
        estimates.add(decision(number, route="student"), [shadow(number, grades=grades)])
    parity = estimates.total.parity("student")
    assert parity is not None
    assert parity.value == -0.5


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="by: 'tag:' is none of"):
        Estimates(by="tag:")
