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

BASE = ("--weak", "weak|ok", "--strong", "strong.ok")
SIGNALS = ("--signals", "confidence,tokens,topic")


def evaluate(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", str(path), *BASE, *options], catch_exceptions=False)


def report_of(path: Path, *options: str) -> dict[str, Any]:
    result = evaluate(path, *options, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "data.csv", outcomes(400))


@pytest.mark.parametrize("options", [SIGNALS, ("--text", "prompt"), (*SIGNALS, "--text", "prompt")])
def test_scores_are_better_than_chance_and_one_a_query(data: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    out = tmp_path / "scores.csv"
    found = report_of(data, *options, "--scores-out", str(out))
    assert found["kind"] == ("cascade" if SIGNALS[0] in options else "router")
    assert (found["schema"], found["data"]["n"], found["folds"], found["share"]) == (1, 400, 5, 0.2)
    score = found["figures"]["score"]
    assert score["apgr"]["low"] > 0.5
    assert score["auroc_strong_better"]["low"] > 0.5
    assert 0 < score["cpt50"]["estimate"] < score["cpt80"]["estimate"] < 100
    assert score["ece"]["estimate"] < 0.15
    assert found["figures"]["random"]["apgr_exact"]["estimate"] == pytest.approx(0.5)
    assert set(found["differences"]["random"]) == set(DIFFERENCES)
    rows = list(csv.DictReader(out.open(encoding="utf-8", newline="")))
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(400)]
    assert next(iter(rows[0].items()))[0] == "id" and list(rows[0])[1] == "score"
    assert found["recommended"] in rows[0]
    values = np.array([[float(value) for name, value in row.items() if name != "id"] for row in rows])
    assert ((values >= 0) & (values <= 1)).all()


def test_report_prints_the_figures_and_the_baselines(data: Path) -> None:
    result = evaluate(data, *SIGNALS)
    assert result.exit_code == 0
    for part in (
        "400 queries",
        "cascade",
        "oracle",
        "random",
        "APGR, RouteLLM",
        "CPT80, exact",
        "gap recovered at 20%",
        "ECE",
    ):
        assert part in result.stdout
    assert "bootstrap" in result.stderr and "bootstrap" not in result.stdout


def test_same_seed_gives_the_same_report(data: Path) -> None:
    assert report_of(data, *SIGNALS) == report_of(data, *SIGNALS)
    assert report_of(data, *SIGNALS, "--seed", "1") != report_of(data, *SIGNALS)


def test_order_of_the_file_changes_no_score(tmp_path: Path) -> None:
    rows = outcomes(300)
    order = np.random.default_rng(0).permutation(300)
    found = []
    for name, each in (("a", rows), ("b", rows.part(order))):
        path = write_csv(tmp_path / f"{name}.csv", each)
        report_of(path, *SIGNALS, "--scores-out", str(tmp_path / f"{name}.out"))
        with (tmp_path / f"{name}.out").open(encoding="utf-8", newline="") as file:
            found.append({row["id"]: row["score"] for row in csv.DictReader(file)})
    assert found[0] == found[1]


def test_plot_is_a_picture(data: Path, tmp_path: Path) -> None:
    report_of(data, *SIGNALS, "--plot", str(tmp_path / "p.png"))
    assert (tmp_path / "p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_artefact_is_a_score_that_a_policy_can_load_with_its_cross_fitted_figures(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "score.json"
    found = report_of(data, "--text", "prompt", "--artefact-out", str(out))
    model = load(out, use="prompt")
    assert model.fitted.training.sha256 == found["data"]["sha256"]
    assert model.fitted.measures["apgr"] == pytest.approx(found["figures"]["score"]["apgr"]["estimate"], abs=1e-4)
    assert model.fitted.default_threshold == pytest.approx(found["threshold"], abs=1e-6)
    assert sum(each.n for each in model.fitted.reliability) == 400
    hard, easy = (model.probability({}, TOPICS[topic]) for topic in (0, 1))
    assert 0 <= easy < hard <= 1


def test_costs_are_reported_when_both_are_given(tmp_path: Path) -> None:
    rows = outcomes(300)
    path = write_csv(tmp_path / "data.csv", rows)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0] + ",small,large", *(line + ",1,10" for line in lines[1:])]))
    score = report_of(path, *SIGNALS, "--cost-weak", "small", "--cost-strong", "large")["figures"]["score"]
    assert score["cost_router"]["estimate"] == pytest.approx(0.28)
    assert score["cost_cascade"]["estimate"] == pytest.approx(0.30)


def changed(rows: Outcomes, **values: Any) -> Outcomes:
    return Outcomes(**{**vars(rows), **values})


def test_report_is_honest_and_exit_code_1_when_strong_is_no_better(tmp_path: Path) -> None:
    rows = outcomes(200)
    path = write_csv(tmp_path / "data.csv", changed(rows, weak=rows.strong, strong=rows.weak))
    result = evaluate(path, *SIGNALS)
    assert result.exit_code == 1
    assert "strong is no better than weak" in result.stdout
    assert json.loads(evaluate(path, *SIGNALS, "--json").stdout)["figures"]["score"]["apgr"]["estimate"] is None


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_is_learned_when_all_outcomes_are_equal(tmp_path: Path, value: float) -> None:
    rows = outcomes(100)
    path = write_csv(tmp_path / "data.csv", changed(rows, weak=np.full(100, value), strong=np.full(100, value)))
    result = evaluate(path, *SIGNALS)
    assert result.exit_code == 1
    assert "equal in every row" in result.stderr


def test_odd_data_end_in_a_report(tmp_path: Path) -> None:
    rows = outcomes(100)
    generator = np.random.default_rng(0)
    for name, each in {
        "one class": changed(rows, strong=np.ones(100), weak=np.zeros(100)),
        "one query in a hundred": changed(rows, strong=np.ones(100), weak=(np.arange(100) > 0).astype(float)),
        "constant signals": changed(rows, signals=np.ones((100, 2)), categorical={"topic": ("a",) * 100}),
        "empty signals": changed(rows, signals=np.full((100, 2), np.nan), categorical={"topic": ("",) * 100}),
        "huge signals": changed(rows, signals=generator.normal(0, 1, (100, 2)) * 1e150),
        "few rows": rows.part(range(24)),
        "all alike but half": changed(
            rows, text=tuple("same" if i % 3 == 0 else f"text {i} {i * 7919}" for i in range(100))
        ),
    }.items():
        path = write_csv(tmp_path / "data.csv", each)
        for options in (SIGNALS, ("--text", "prompt"), (*SIGNALS, "--text", "prompt")):
            result = evaluate(path, *options, "--json")
            assert result.exit_code == 0, (name, options, result.output)
            assert json.loads(result.stdout)["accuracy"]["gap"]["estimate"] > 0, name


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


def test_scores_cannot_be_written_ends_with_exit_code_1(data: Path) -> None:
    result = evaluate(data, *SIGNALS, "--scores-out", str(data / "below" / "a" / "file.csv"))
    assert result.exit_code == 1
    assert "Not a directory" in result.stderr
