"""The run behind the operator's guide: its choice of a threshold, its figures, and the whole of it on fake backends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtests.fake.state import Hearing
from loadtests.fake_backend import FakeBackend
from policies import artefact
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, Platt
from trainer.claim.client import Answered
from trainer.claim.data import Case
from trainer.claim.operate import page, setup
from trainer.claim.operate.choice import cheapest, values_to_try
from trainer.claim.operate.figures import truth
from trainer.claim.operate.session import Session
from trainer.claim.operate.setup import Claim, NoClaim, cautious, read_claim
from trainer.claim.operate.stand import running_gateway

TEACHERS_WORDS = "The quick brown fox jumps over the lazy"
"""What a fake backend answers with its default of 8 tokens."""


def estimate(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": 100}


def report(usd: float, loss: tuple[float, float, float] | None) -> dict[str, Any]:
    return {
        "cost_usd_per_request": estimate(usd, usd, usd),
        "quality_loss": None if loss is None else estimate(*loss),
        "student_share": estimate(0.5, 0.4, 0.6),
    }


def sweep(*points: tuple[float, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"value": value, "report": each} for value, each in points]


IN_FORCE = report(8e-5, (0.0, 0.0, 0.003))


def test_choice_is_the_cheapest_threshold_whose_interval_stays_within_a_point() -> None:
    tried = sweep(
        (0.1, report(7e-5, (0.002, 0.0, 0.006))),
        (0.2, report(5e-5, (0.004, 0.0, 0.0099))),
        (0.3, report(3e-5, (0.006, 0.0, 0.012))),
    )
    choice = cheapest(tried, IN_FORCE)
    assert choice.value == 0.2
    assert choice.report["cost_usd_per_request"]["value"] == 5e-5


def test_choice_asks_for_labels_when_a_cheaper_threshold_is_only_perhaps_good_enough() -> None:
    choice = cheapest(sweep((0.1, report(9e-5, (0.0, 0.0, 0.003))), (0.3, report(3e-5, (0.006, 0.0, 0.02)))), IN_FORCE)
    assert choice.value is None and choice.why.startswith("too few labels")
    assert choice.report is IN_FORCE


def test_choice_asks_for_labels_when_replay_tells_no_quality() -> None:
    choice = cheapest(sweep((0.3, report(3e-5, None))), IN_FORCE)
    assert choice.value is None and choice.why.startswith("too few labels")


def test_choice_leaves_the_threshold_when_every_cheaper_one_loses_more_than_a_point() -> None:
    choice = cheapest(sweep((0.3, report(3e-5, (0.05, 0.03, 0.07)))), IN_FORCE)
    assert choice.value is None
    assert choice.why == "every cheaper threshold loses more than 1 point"


def test_values_to_try_leave_shares_of_the_drafts_above_them() -> None:
    scores = [number / 1000 for number in range(1000)]
    values = values_to_try(scores)
    assert len(values) == 19
    assert sum(score > values[0] for score in scores) / 1000 == pytest.approx(0.95, abs=0.002)
    assert sum(score > values[-1] for score in scores) / 1000 == pytest.approx(0.05, abs=0.002)
    assert values_to_try([]) == []
    assert values_to_try([0.1, 0.1, 0.1]) == [0.1]
    assert values_to_try([0.123451]) == [0.12346], "rounded down it would escalate the draft that it keeps"


def test_truth_compares_what_was_delivered_with_the_teacher_alone() -> None:
    cases = [Case(str(number), "question", "yes") for number in range(10)]

    def answers(right: int) -> dict[str, Answered]:
        return {str(n): Answered(id=str(n), text="yes" if n < right else "no") for n in range(10)}

    found = truth(cases, answers(7), answers(9))
    assert found["accuracy"]["value"] == pytest.approx(0.7)
    assert found["loss"]["estimate"] == pytest.approx(0.2)
    assert truth(cases, answers(7), {})["loss"] is None


def test_cautious_threshold_leaves_three_quarters_with_the_teacher() -> None:
    curve = [
        {"threshold": t, "teacher_share": share} for t, share in ((0.5, 0.1), (0.2, 0.49), (0.1, 0.74), (0.0, 1.0))
    ]
    assert cautious(curve) == 0.1


def test_folder_without_a_finished_claim_is_refused_by_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NoClaim, match=r"recipe\.toml is missing"):
        read_claim(tmp_path)


def test_halves_share_no_question_and_are_the_same_each_time(tmp_path: Path) -> None:
    claim = Claim(tmp_path, tmp_path, "b", 0.1, tuple(Case(str(n), "q", "l") for n in range(50)))
    before, after = claim.halves(40)
    assert len({case.id for case in (*before, *after)}) == 40
    assert claim.halves(40) == (before, after)
    with pytest.raises(NoClaim, match="50 test questions"):
        claim.halves(51)


def questions(count: int) -> tuple[Case, ...]:
    """Four of five are known to the student, the more or less surely; of the fifth it gives half an answer and is
    unsure. The directives reach the student alone."""

    def directives(number: int) -> str:
        return "fake-tokens-4-logprob-2.0" if number % 5 == 4 else f"fake-logprob-{0.01 * (number % 10):.2f}"

    return tuple(Case(f"c{n}", f"[[{directives(n)}]] question {n}", TEACHERS_WORDS) for n in range(count))


@pytest.mark.system
@pytest.mark.timeout(600)
async def test_bill_falls_and_quality_holds_when_replay_chooses_the_threshold(tmp_path: Path) -> None:
    calibrator = tmp_path / "calibrator.json"
    fitted = CalibratorArtefact(
        calibrator=Platt(slope=10.0, intercept=3.0), raw=MEAN_LOGPROB, student="student", source="made up",
        n=100, n_sufficient=80, ece=0.0, reliability=(),
    )  # fmt: skip
    artefact.write(calibrator, fitted)
    cases = questions(1000)
    alone = {case.id: Answered(id=case.id, text=case.label) for case in cases}
    async with (
        FakeBackend(models=("student",)) as student,
        FakeBackend(models=("teacher",), hearing=Hearing("never")) as teacher,
    ):
        tables = [
            "[student]",
            f"base_url = {json.dumps(student.base_url)}",
            'model = "student"',
            "context_window_tokens = 512",
            "capture_logprobs = true",
            *setup.STUDENT_PRICES,
        ]
        cascade = f"calibrator = {json.dumps(str(calibrator))}\nthreshold = 0.053"
        async with running_gateway(tmp_path, teacher.base_url, "\n".join(tables), cascade, quiet) as gateway:
            session = Session(gateway, tmp_path, lambda name: quiet, alone, quiet_s=2.0)
            figures = await session.run(cases[:500], cases[500:])
    before, after = figures["before"], figures["after"]
    assert figures["choice"]["value"] is not None, figures["choice"]["why"]
    assert after["bill"]["student_share"]["value"] == pytest.approx(0.8, abs=0.01)
    assert after["bill"]["of_all_teacher"] < before["bill"]["of_all_teacher"] - 0.2
    predicted = figures["choice"]["predicted"]
    assert predicted["student_share"]["value"] == pytest.approx(after["bill"]["student_share"]["value"], abs=0.03)
    assert before["truth"]["loss"]["estimate"] == after["truth"]["loss"]["estimate"] == 0.0
    assert after["quality"]["quality_loss"]["high"] < 0.02
    assert after["quality"]["labels"]["feedback"] == 125
    with (tmp_path / "page.txt").open("w") as file:
        page.show(figures, Console(file=file, width=120))
    assert f"{figures['choice']['value']:.5f} <-" in (tmp_path / "page.txt").read_text()


def quiet(done: int, total: int | None, unit: str) -> None:
    """No progress."""
