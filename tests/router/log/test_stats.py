"""`locum log stats`: what adds up to what, and what is kept apart."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from policies.base import RouteDecision
from policies.record import Draft, Held, LateEnding, Usage
from router.log.stats import MONTH_S, Assumptions, break_even
from tests.router.log.running import run
from tests.traffic_records import DAY_S, decision, shadow, write_segment


def test_stats_add_up(log: Path) -> None:
    result = run("stats", log, "--json", "--student-usd-per-month", "0.01", "--escalated-share", "0.5")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["records"] == 24
    for key in ("by_route", "by_reason", "by_outcome", "by_purpose", "by_capture", "distillation"):
        assert sum(figures[key].values()) == 24, key
    assert figures["by_route"] == {"teacher": 15, "student": 8, "none": 1}
    assert figures["tokens"]["student"]["prompt_tokens"] == 800
    assert math.isclose(figures["spend"]["usd"], 15 * 0.004 + 8 * 0.0001)
    assert math.isclose(figures["spend"]["usd_per_month"], figures["spend"]["usd"] * MONTH_S / (10 * DAY_S))
    assert math.isclose(figures["spend"]["counterfactual_usd"], 23 * 0.004)
    assert figures["labels"] == {
        "judgements": 4, "judged_records": 2, "scores": 1, "labels": 1, "corrections": 0, "mean_score": 0.5,
    }  # fmt: skip
    assert figures["distillation"] == {
        "usable": 11, "not_from_the_teacher": 8, "not_traffic": 1, "licence_denied": 1, "licence_conditional": 1,
        "text_not_captured": 1, "not_answered": 1,
    }  # fmt: skip
    even = figures["break_even"]
    assert math.isclose(even["requests_per_month"], 22 * MONTH_S / (10 * DAY_S))
    assert math.isclose(even["break_even_requests_per_month"], 0.01 / (0.5 * 0.004))
    assert even["pays"] is True


def test_stats_show_the_arithmetic(log: Path) -> None:
    result = run("stats", log)
    assert result.exit_code == 0, result.output
    assert "n * t" in result.stdout
    assert "It does not pay" in result.stdout  # 0.09 USD a month of work against a machine of 365


def test_embeddings_stand_beside_the_spend(tmp_path: Path) -> None:
    embedding: dict[str, Any] = {
        "purpose": "embedding", "endpoint": "/v1/embeddings", "route": None, "reason": "embeddings", "capture": "metadata",
        "request": None, "completion": None, "counterfactual_cost_usd": None, "cost_usd": 0.5,
    }  # fmt: skip
    unpriced = embedding | {"cost_usd": None, "usage": None}
    write_segment(tmp_path, "a", [decision(1), decision(2, **embedding), decision(3, **unpriced)])
    figures = json.loads(run("stats", tmp_path, "--json").stdout)
    assert figures["spend"]["usd"] == pytest.approx(0.004)
    assert figures["embeddings"] == {"requests": 2, "prompt_tokens": 100, "cost_usd": 0.5}
    assert figures["distillation"] == {"usable": 1, "not_traffic": 2}
    assert "2 requests, 100 tokens, 0.500000 USD" in run("stats", tmp_path).stdout
    assert "Embeddings" not in run("stats", write_segment(tmp_path / "none", "a", [decision(1)]).parent).stdout


def test_drafts_that_were_thrown_away_count_as_the_students(tmp_path: Path) -> None:
    draft = Draft(usage=Usage(prompt_tokens=90, completion_tokens=5), cost_usd=0.0002, escalated=True)
    unpriced = Draft(usage=Usage(prompt_tokens=9, completion_tokens=1), escalated=True)
    left = {"outcome": "client_disconnected", "usage": None, "cost_usd": None, "counterfactual_cost_usd": None}
    records = [
        decision(1, draft=draft, cost_usd=0.0042),  # replaced by the teacher's answer
        decision(2, draft=draft, **left),  # the client left while the teacher was asked
        decision(3, draft=draft, route="student", degraded="teacher_unavailable", cost_usd=0.0002),  # delivered
        decision(4, draft=unpriced, cost_usd=None),
        decision(5),
    ]
    write_segment(tmp_path, "a", records)
    result = run("stats", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    student, teacher, thrown = (
        figures["tokens"]["student"], figures["tokens"]["teacher"], figures["drafts_thrown_away"]
    )  # fmt: skip
    assert (thrown["drafts"], thrown["prompt_tokens"], thrown["completion_tokens"]) == (3, 189, 11)
    assert thrown["cost_usd"] == pytest.approx(0.0004)
    assert (student["requests"], student["prompt_tokens"], student["completion_tokens"]) == (1, 289, 21)
    assert math.isclose(student["cost_usd"], 0.0006)
    assert (teacher["requests"], teacher["prompt_tokens"]) == (4, 300)
    assert math.isclose(teacher["cost_usd"], 0.008)
    assert math.isclose(figures["spend"]["usd"], 0.0086)
    assert figures["spend"]["answers_without_cost"] == 2
    assert "of which 3 drafts thrown away" in " ".join(run("stats", tmp_path).stdout.split())


def test_answer_of_two_models_counts_for_each_its_part(tmp_path: Path) -> None:
    alarm = RouteDecision(route="teacher", reason="late_alarm")
    part = Usage(prompt_tokens=30, completion_tokens=7)
    late = LateEnding(tokens=9, action="continue", alarm=alarm, usage=part, cost_usd=0.003)
    own = Usage(prompt_tokens=20, completion_tokens=9)
    whole = Usage(prompt_tokens=50, completion_tokens=16)
    records = [
        decision(
            1, route="student", usage=whole, cost_usd=0.0031, stream=True,
            draft=Draft(prefix=True, usage=own, cost_usd=0.0001, window=Held(held_s=0.1, late=late)),
        ),
        decision(
            2, route="student", usage=whole, cost_usd=0.0007, stream=True,
            draft=Draft(prefix=True, usage=own, cost_usd=0.0001, window=Held(held_s=0.1, asked_again=True)),
        ),
    ]  # fmt: skip
    write_segment(tmp_path, "a", records)
    figures = json.loads(run("stats", tmp_path, "--json").stdout)
    student, teacher = figures["tokens"]["student"], figures["tokens"]["teacher"]
    assert (student["prompt_tokens"], student["completion_tokens"]) == (20 + 50 + 20, 9 + 16 + 9)
    assert (teacher["prompt_tokens"], teacher["completion_tokens"], teacher["requests"]) == (30, 7, 0)
    assert student["cost_usd"] == pytest.approx(0.0001 + 0.0007)
    assert teacher["cost_usd"] == pytest.approx(0.003)
    assert figures["drafts_thrown_away"]["drafts"] == 1


def test_stats_price_the_student_by_its_machine_when_it_has_no_list_prices(tmp_path: Path) -> None:
    machine: dict[str, Any] = {"machine_priced": True, "machine_usd": 0.0003}
    draft = Draft(usage=Usage(prompt_tokens=90, completion_tokens=5), cost_usd=0.0003, escalated=True)
    unanswered: dict[str, Any] = {"route": None, "usage": None, "cost_usd": None, "counterfactual_cost_usd": None}
    records = [
        decision(1, route="student", cost_usd=0.0003, **machine),
        decision(2, cost_usd=0.0043, draft=draft, **machine),
        decision(3, cost_usd=0.0043, **machine),  # the student had failed before the teacher was asked
        decision(4, outcome="backend_error", **unanswered, **machine),
        decision(5, cost_usd=0.004, machine_priced=True, machine_usd=0.0),
    ]
    write_segment(tmp_path, "a", records)
    figures = json.loads(run("stats", tmp_path, "--json").stdout)
    assert figures["tokens"]["student"]["cost_usd"] == pytest.approx(4 * 0.0003)
    assert figures["tokens"]["teacher"]["cost_usd"] == pytest.approx(3 * 0.004)
    assert figures["spend"]["usd"] == pytest.approx(4 * 0.0003 + 3 * 0.004)
    assert figures["machine"] == {"usd": pytest.approx(4 * 0.0003), "part_of_spend": True}
    assert "a part of the spend" in " ".join(run("stats", tmp_path).stdout.split())


def test_stats_keep_measured_and_list_cost_apart_when_there_are_both(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1, route="student", cost_usd=0.0001, machine_usd=0.0007)])
    figures = json.loads(run("stats", tmp_path, "--json").stdout)
    assert figures["spend"]["usd"] == pytest.approx(0.0001)
    assert figures["machine"] == {"usd": pytest.approx(0.0007), "part_of_spend": False}


def test_stats_show_what_measuring_quality_cost_beside_the_spend(tmp_path: Path) -> None:
    shadows = [
        shadow(1, cost_usd=0.02, judge_cost_usd=0.001),
        shadow(2, cost_usd=0.03, judge_cost_usd=None),
        shadow(3, status="skipped_budget", cost_usd=None, usage=None),
    ]
    write_segment(tmp_path, "a", [decision(1), decision(2), decision(3), *shadows])
    figures = json.loads(run("stats", tmp_path, "--json").stdout)
    assert figures["quality"]["shadows"] == 2
    assert figures["quality"]["cost_usd"] == pytest.approx(0.05)
    assert figures["quality"]["judge_cost_usd"] == pytest.approx(0.001)
    assert figures["spend"]["usd"] == pytest.approx(3 * 0.004)
    assert "Measuring quality, beside that: 2 shadows" in " ".join(run("stats", tmp_path).stdout.split())


def test_stats_count_cached_and_reasoning_tokens_as_parts(tmp_path: Path) -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=50, cached_tokens=80, reasoning_tokens=30, cache_write_tokens=5)
    write_segment(tmp_path, "a", [decision(1, usage=usage), decision(2)])
    teacher = json.loads(run("stats", tmp_path, "--json").stdout)["tokens"]["teacher"]
    assert [teacher[f"{name}_tokens"] for name in ("prompt", "cached", "cache_write", "completion", "reasoning")] == [
        200, 80, 5, 60, 30,
    ]  # fmt: skip


def test_stats_of_an_empty_log_say_so(tmp_path: Path) -> None:
    assert "no decision record" in run("stats", tmp_path).stdout
    assert json.loads(run("stats", tmp_path, "--json").stdout)["records"] == 0


def test_break_even_uses_the_given_prices() -> None:
    teacher = {"requests": 1000, "logged_usd": None, "prompt_tokens": 1000.0, "completion_tokens": 100.0}
    free = Assumptions(student_usd_per_month=100.0, training_usd=50.0, escalated_share=0.2)
    assert break_even(teacher, MONTH_S, free)["pays"] is None
    priced = msgspec.convert(
        {**msgspec.to_builtins(free), "teacher_input_usd_per_1m": 200.0, "teacher_output_usd_per_1m": 1000.0},
        Assumptions,
    )
    result = break_even(teacher, MONTH_S, priced)
    assert math.isclose(result["teacher_usd_per_request"], 0.3)
    assert math.isclose(result["break_even_requests_per_month"], 100 / (0.8 * 0.3))
    assert math.isclose(result["saving_usd_per_month"], 1000 * 0.3 * 0.8 - 100)
    assert math.isclose(result["payback_months"], 50 / 140)
