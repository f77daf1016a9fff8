from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from serving.demo.report import Document, glance, print_report, write_document
from serving.demo.results import Prices, Result
from serving.demo.summary import summarize

Make = Callable[..., Result]


def document(results: list[Result], *, partial: bool = False) -> Document:
    summary = summarize(results, planned=len(results), wall_s=1.5, gateway=None)
    return Document(
        partial=partial,
        requests=results,
        summary=summary,
        problems=summary.problems,
        prices_usd_per_1m_tokens=Prices(),
        versions={"python": "3.11"},
        models={"student": {"name": "s", "sha256": "0" * 64}},
    )


def printed(results: list[Result], *, partial: bool = False) -> str:
    file = io.StringIO()
    print_report(Console(width=80, file=file, highlight=False), document(results, partial=partial))
    return file.getvalue()


def test_document_holds_what_each_request_took(make_result: Make, tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    write_document(document([make_result(ttft_s=0.5, stream=True, decision_id="d1", correct=None)]), path)
    read = json.loads(path.read_text())
    request = read["requests"][0]
    assert {
        "route", "policy", "reason", "ttft_s", "latency_s", "prompt_tokens", "completion_tokens", "cost_usd",
        "counterfactual_cost_usd", "correct", "stream", "kind", "decision_id",
    } <= request.keys()  # fmt: skip
    assert (request["ttft_s"], request["correct"], request["decision_id"]) == (0.5, None, "d1")
    assert read["models"]["student"]["sha256"] == "0" * 64
    assert read["summary"]["by_route"]["student"]["requests"] == 1
    assert read["partial"] is False


def test_document_replaces_an_older_one_and_leaves_no_scratch_file(make_result: Make, tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    path.write_text("old")
    write_document(document([make_result()], partial=True), path)
    assert json.loads(path.read_text())["partial"] is True
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo.json"]


@pytest.mark.parametrize("reason", ["exceeds_window_estimated", "fallback_connect_timeout"])
def test_table_shows_every_cell_whole_when_names_are_long(make_result: Make, reason: str) -> None:
    result = make_result(
        id="reason-10", policy="retrieval_confidence", reason=reason, route="teacher", ttft_s=123.45, stream=True,
        latency_s=123.45, prompt_tokens=12_345, completion_tokens=1_000, cost_usd=0.0123456,
        counterfactual_cost_usd=0.0123456, correct=None,
    )  # fmt: skip
    row = next(line for line in printed([result]).splitlines() if "reason-10" in line)
    for cell in ("stream", "teacher", "retrieval_confidence", reason, "123.45", "12,345", "12,345.6", "unchecked"):
        assert cell in row
    assert "…" not in row


def test_report_shows_the_failure_and_the_problem(make_result: Make) -> None:
    text = printed([make_result(id="docs-07", ok=False, error="APIStatusError: [no] backend")])
    assert "docs-07: APIStatusError: [no] backend" in text
    assert "1 request(s) failed" in text


def test_report_says_how_answers_were_checked_and_which_prices_hold(make_result: Make) -> None:
    text = " ".join(printed([make_result()]).split())
    assert "no model judges" in text
    assert "list prices, stated in locum.toml" in text
    assert "the last number of the answer is the expected one" in text


def test_report_says_that_a_run_was_interrupted(make_result: Make) -> None:
    assert "Interrupted" in printed([make_result()], partial=True)


def test_glance_says_who_answered_at_what_cost_and_why_when_all_went_well(make_result: Make) -> None:
    policies = ("long_context", "retrieval_confidence", "long_reasoning")
    results = [make_result(id="docs-01"), *(make_result(id=name, route="teacher", policy=name) for name in policies)]
    text = "\n".join(glance(document(results)))
    assert "4 of 4 requests: 1 by the student, 3 by the teacher" in text
    assert "1 of 1 by the student, 3 of 3 by the teacher" in text
    assert "a prompt longer than the student's window (1), retrieval that found too little (1)" in text
    assert "x cheaper" in text
    assert "everything worked" in text


def test_glance_points_to_the_problems_when_there_are_any(make_result: Make) -> None:
    text = "\n".join(glance(document([make_result(ok=False, error="gone", cost_usd=None)])))
    assert "unreported" in text
    assert "see below" in text
