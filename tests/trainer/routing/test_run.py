"""From a file to a report: what the report and the files hold, whatever the data are."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.trainer.routing.data import ByConfidence, outcomes, write_csv
from trainer.routing.evaluation import Plan
from trainer.routing.outcomes import Outcomes
from trainer.routing.reading import Columns
from trainer.routing.report import Report, as_json
from trainer.routing.run import NotExportable, Outputs, run

pytestmark = pytest.mark.usefixtures("few_trees")

COLUMNS = Columns(weak="weak|ok", strong="strong.ok", signals=("confidence", "tokens", "topic"))
PLAN = Plan(folds=3, resamples=40)
NO_FILES = Outputs()


def report_of(path: Path, columns: Columns = COLUMNS, plan: Plan = PLAN, outputs: Outputs = NO_FILES) -> Report:
    return run(path, columns, plan, outputs, learners=[ByConfidence()])[0]


def scores_of(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row["score"] for row in csv.DictReader(file)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "data.csv", outcomes(150))


def changed(rows: Outcomes, **values: Any) -> Outcomes:
    return Outcomes(**{**vars(rows), **values})


def test_same_seed_gives_the_same_report(data: Path) -> None:
    first = report_of(data)
    assert as_json(report_of(data)) == as_json(first)
    assert as_json(report_of(data, plan=replace(PLAN, seed=1))) != as_json(first)
    assert msgspec.json.decode(as_json(first), type=Report) == first


@pytest.mark.parametrize("own_learners", [True, False])
def test_order_of_the_file_changes_no_score(tmp_path: Path, own_learners: bool) -> None:
    rows = outcomes(90)
    learners = None if own_learners else [ByConfidence()]
    found = []
    for name, each in (("a", rows), ("b", rows.part(np.random.default_rng(0).permutation(90)))):
        path, out = write_csv(tmp_path / f"{name}.csv", each), tmp_path / f"{name}.out"
        run(path, COLUMNS, replace(PLAN, folds=2), Outputs(scores=out), learners=learners)
        found.append(scores_of(out))
    assert found[0] == found[1]


def test_plot_is_a_picture(data: Path, tmp_path: Path) -> None:
    report_of(data, outputs=Outputs(plot=tmp_path / "p.png"))
    assert (tmp_path / "p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_costs_are_reported_when_both_are_given(data: Path) -> None:
    lines = data.read_text().splitlines()
    data.write_text("\n".join([lines[0] + ",small,large", *(line + ",1,10" for line in lines[1:])]))
    score = report_of(data, replace(COLUMNS, cost_weak="small", cost_strong="large")).figures["score"]
    assert score.cost_router is not None and score.cost_cascade is not None
    assert score.cost_router.estimate == pytest.approx(0.28)
    assert score.cost_cascade.estimate == pytest.approx(0.30)


def test_figures_are_null_when_strong_is_no_better(tmp_path: Path) -> None:
    rows = outcomes(100)
    report = report_of(write_csv(tmp_path / "data.csv", changed(rows, weak=rows.strong, strong=rows.weak)))
    assert report.figures["score"].apgr.estimate is None
    assert report.figures["score"].auroc_strong_better.estimate is not None
    assert "no better" in report.notes[0]


def test_report_warns_when_a_signal_is_the_judgement_itself(tmp_path: Path) -> None:
    rows = outcomes(300)
    telltale = np.column_stack([rows.weak + 0.001 * np.arange(300) / 300, rows.signals[:, 1]])
    path = write_csv(tmp_path / "data.csv", changed(rows, signals=telltale))
    assert any("is it known when the policy decides" in note for note in report_of(path).notes)
    assert not any("is it known" in note for note in report_of(write_csv(path, rows)).notes)


def test_learner_without_an_artefact_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NotExportable, match="by_confidence"):
        report_of(data, outputs=Outputs(artefact=tmp_path / "a.json"))
    assert not (tmp_path / "a.json").exists()


ODD: dict[str, dict[str, Any]] = {
    "one class": {"strong": np.ones(60), "weak": np.zeros(60)},
    "one query of sixty": {"strong": np.ones(60), "weak": (np.arange(60) > 0).astype(float)},
    "constant signals": {"signals": np.ones((60, 2)), "categorical": {"topic": ("a",) * 60}},
    "empty signals": {"signals": np.full((60, 2), np.nan), "categorical": {"topic": ("",) * 60}},
    "huge signals": {"signals": np.random.default_rng(0).normal(0, 1, (60, 2)) * 1e28},
    "a third alike": {"text": tuple("same" if i % 3 == 0 else f"text {i} {i * 7919}" for i in range(60))},
    "fractions": {"weak": np.arange(60) / 120, "strong": np.sqrt(np.arange(60) / 60)},
}


@pytest.mark.parametrize(
    ("name", "signals"),
    [(name, signals) for name in sorted(ODD) for signals in (True, False) if signals or "signals" not in ODD[name]],
)
def test_odd_data_end_in_a_report(tmp_path: Path, name: str, signals: bool) -> None:
    path = write_csv(tmp_path / "data.csv", changed(outcomes(60), **ODD[name]))
    columns = replace(COLUMNS, text="prompt", signals=COLUMNS.signals if signals else ())
    report, _ = run(path, columns, replace(PLAN, folds=2), NO_FILES)
    assert (report.accuracy["gap"].estimate or 0) > 0
    assert report.figures["score"].points_left.estimate is not None


def test_few_rows_end_in_a_report_with_a_warning(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "data.csv", outcomes(24))
    report, _ = run(path, replace(COLUMNS, text="prompt"), replace(PLAN, folds=5), NO_FILES)
    assert any("only 24 rows" in note for note in report.notes)
