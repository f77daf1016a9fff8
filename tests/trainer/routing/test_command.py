"""`locum evaluate` as a user meets it: what it prints, writes, and how it ends."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from policies.scoring.model import load
from router.cli import main
from tests.trainer.routing.data import TOPICS, outcomes, write_csv
from trainer.routing.outcomes import Outcomes
from trainer.routing.report import DIFFERENCES

pytestmark = pytest.mark.usefixtures("few_trees")

BASE = ("--weak", "weak|ok", "--strong", "strong.ok")
SIGNALS = ("--signals", "confidence,tokens,topic")


def evaluate(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", str(path), *BASE, "--folds", "3", *options], catch_exceptions=False)


def report_of(path: Path, *options: str) -> dict[str, Any]:
    result = evaluate(path, *options, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "data.csv", outcomes(300))


def changed(rows: Outcomes, **values: Any) -> Outcomes:
    return Outcomes(**{**vars(rows), **values})


@pytest.mark.parametrize("options", [("--text", "prompt"), (*SIGNALS, "--text", "prompt")])
def test_scores_are_better_than_chance_and_one_a_query(data: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    out = tmp_path / "scores.csv"
    found = report_of(data, *options, "--scores-out", str(out))
    assert found["kind"] == ("cascade" if SIGNALS[0] in options else "router")
    assert (found["schema"], found["data"]["n"], found["folds"], found["share"]) == (1, 300, 3, 0.2)
    score = found["figures"]["score"]
    assert score["apgr"]["low"] > 0.5
    assert score["auroc_strong_better"]["low"] > 0.5
    assert 0 < score["cpt50"]["estimate"] < score["cpt80"]["estimate"] < 100
    assert score["ece"]["estimate"] < 0.2
    assert found["figures"]["random"]["apgr_exact"]["estimate"] == pytest.approx(0.5)
    assert set(found["differences"]["random"]) == set(DIFFERENCES)
    rows = list(csv.DictReader(out.open(encoding="utf-8", newline="")))
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(300)]
    assert list(rows[0])[:2] == ["id", "score"]
    assert found["recommended"] in rows[0]
    values = np.array([[float(value) for name, value in row.items() if name != "id"] for row in rows])
    assert ((values >= 0) & (values <= 1)).all()


def test_report_prints_the_figures_and_the_baselines(data: Path) -> None:
    result = evaluate(data, "--text", "prompt")
    assert result.exit_code == 0
    for part in ("300 queries", "oracle", "random", "APGR, RouteLLM", "CPT80, exact", "gap recovered at 20%", "ECE"):
        assert part in result.stdout
    assert "bootstrap" in result.stderr and "bootstrap" not in result.stdout


def test_artefact_is_a_score_that_a_policy_can_load_with_its_cross_fitted_figures(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "score.json"
    found = report_of(data, "--text", "prompt", "--artefact-out", str(out))
    model = load(out, use="prompt")
    assert model.fitted.training.sha256 == found["data"]["sha256"]
    assert model.fitted.measures["apgr"] == pytest.approx(found["figures"]["score"]["apgr"]["estimate"], abs=1e-4)
    assert model.fitted.default_threshold == pytest.approx(found["threshold"], abs=1e-6)
    assert sum(each.n for each in model.fitted.reliability) == 300
    hard, easy = (model.probability({}, TOPICS[topic]) for topic in (0, 1))
    assert 0 <= easy < hard <= 1


def test_report_is_honest_and_exit_code_1_when_strong_is_no_better(tmp_path: Path) -> None:
    rows = outcomes(100)
    path = write_csv(tmp_path / "data.csv", changed(rows, weak=rows.strong, strong=rows.weak))
    result = evaluate(path, "--text", "prompt")
    assert result.exit_code == 1
    assert "strong is no better than weak" in result.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--text", "promt"), "did you mean 'prompt'"),
        ((), "give --text"),
        (("--signals", "confidence,,tokens"), "empty name"),
        (("--signals", "strong.ok"), "is an outcome"),
        (("--text", "prompt", "--share", "1"), "--share"),
        (("--text", "topic",), "only 4 different questions"),
    ],
)  # fmt: skip
def test_wrong_input_ends_with_exit_code_2_and_the_fix(data: Path, options: tuple[str, ...], says: str) -> None:
    result = evaluate(data, *options)
    assert result.exit_code == 2
    assert says in result.stderr


def test_scores_cannot_be_written_ends_with_exit_code_1(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "data.csv", outcomes(60))
    result = evaluate(path, "--text", "prompt", "--scores-out", str(path / "below" / "file.csv"))
    assert result.exit_code == 1
    assert "Not a directory" in result.stderr


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_is_learned_when_all_outcomes_are_equal(tmp_path: Path, value: float) -> None:
    rows = outcomes(100)
    path = write_csv(tmp_path / "data.csv", changed(rows, weak=np.full(100, value), strong=np.full(100, value)))
    result = evaluate(path, *SIGNALS)
    assert result.exit_code == 1
    assert "equal in every row" in result.stderr
