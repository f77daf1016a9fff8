"""`locum replay` on a generated log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from loadtests.replay_log import CALIBRATOR, THRESHOLD, write
from policies import artefact
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, Platt
from router.cli import main
from router.log.compaction import compact

RECORDS = 1500


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("replay")
    write(folder / "traffic", RECORDS, days=10.0, text_bytes=60)
    slope, intercept = CALIBRATOR
    fitted = CalibratorArtefact(
        calibrator=Platt(slope=slope, intercept=intercept), raw=MEAN_LOGPROB, source="generated", n=1, n_sufficient=1,
        ece=0.0, reliability=(),
    )  # fmt: skip
    artefact.write(folder / "calibrator.json", fitted)
    (folder / "active.json").write_text(json.dumps(document(folder, THRESHOLD)))
    (folder / "stricter.json").write_text(json.dumps({"version": 3, "document": document(folder, 0.2)}))
    yield folder


def document(folder: Path, threshold: float) -> dict[str, Any]:
    cascade = {"type": "cascade", "calibrator": str(folder / "calibrator.json"), "threshold": threshold}
    others = [
        {"type": "long_context"},
        {"type": "retrieval_confidence"},
        {"type": "long_reasoning", "escalate_above": 0.6},
    ]
    return {"routing": {"policies": [*others, cascade]}}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["replay", *map(str, arguments)])


def as_json(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_replay_compares_documents_and_sweeps_an_option(place: Path) -> None:
    found = as_json(
        place / "traffic", "--policy", place / "stricter.json", "--baseline", place / "active.json",
        "--sweep", "cascade.threshold=0.1:0.5:3",
    )  # fmt: skip
    assert found["records"] == RECORDS
    baseline, candidate = found["baseline"], found["candidate"]
    assert candidate["student_share"]["value"] < baseline["student_share"]["value"]
    assert candidate["cost_usd_per_month"]["value"] > baseline["cost_usd_per_month"]["value"]
    assert baseline["quality"]["low"] < baseline["quality"]["value"] < baseline["quality"]["high"]
    assert [row["value"] for row in found["sweep"]] == [0.1, 0.3, 0.5]
    shares = [row["report"]["student_share"]["value"] for row in found["sweep"]]
    assert shares == sorted(shares)


def test_replay_prints_a_table_for_people(place: Path) -> None:
    result = run(place / "traffic", "--policy", place / "stricter.json", "--baseline", place / "active.json")
    assert result.exit_code == 0, result.output
    for part in ("1,500 requests of 10.0 days", "baseline", "candidate", "student share", "quality loss"):
        assert part in result.stdout


def test_replay_compares_with_the_default_policies_when_no_baseline_is_given(place: Path, tmp_path: Path) -> None:
    (tmp_path / "defaults.json").write_text(json.dumps({"routing": {}}))
    candidate = [place / "traffic", "--policy", place / "stricter.json"]
    found = as_json(*candidate)
    assert found == as_json(*candidate, "--baseline", tmp_path / "defaults.json")
    assert found["candidate"]["student_share"] != found["baseline"]["student_share"]
    assert "default policies" in run(*candidate).stdout


def test_replay_sweeps_the_baseline_when_there_is_no_candidate(place: Path) -> None:
    found = as_json(place / "traffic", "-c", place / "active.json", "--sweep", "cascade.threshold=0.2:0.35:2")
    assert found["candidate"] is None
    assert found["sweep"][1]["report"] == found["baseline"]


def test_replay_finds_the_same_when_the_log_is_compacted(place: Path, tmp_path: Path) -> None:
    write(tmp_path / "traffic", 1000, days=2.0, text_bytes=60)
    before = as_json(tmp_path / "traffic", "--policy", place / "active.json")
    compact(tmp_path / "traffic", progress=lambda _: None)
    assert as_json(tmp_path / "traffic", "--policy", place / "active.json") == before


def test_replay_takes_a_part_of_the_log(place: Path) -> None:
    tagged = as_json(place / "traffic", "--policy", place / "active.json", "--tag", "team=docs")
    assert 0.4 * RECORDS < tagged["records"] < 0.6 * RECORDS
    late = as_json(place / "traffic", "--policy", place / "active.json", "--since", "2026-10-30")
    assert 0 < late["records"] < RECORDS


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--policy", "missing.json"], "missing.json", 2),
        (["--policy", "active.json", "--sweep", "cascade.threshold=1"], "POLICY.OPTION=A:B:N", 2),
        (["--policy", "active.json", "--sweep", "budget.limit=0:1:3"], "no policy 'budget'", 2),
        (["--policy", "active.json", "--sweep", "cascade.treshold=0:1:3"], "treshold", 2),
        (["--policy", "active.json", "--tag", "team"], "KEY=VALUE", 2),
        (["--policy", "active.json", "--since", "2036-01-01"], "no record", 1),
        (["--policy", "active.json", "--student", "new"], "of the student 'new'", 1),
    ],
)
def test_replay_says_what_is_wrong(place: Path, arguments: list[str], message: str, code: int) -> None:
    named = [str(place / each) if each.endswith(".json") else each for each in arguments]
    result = run(place / "traffic", *named)
    assert (result.exit_code, message in result.output) == (code, True), result.output


def test_replay_ends_with_1_when_quality_cannot_be_told(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "traffic"
    write(folder, 20, text_bytes=60)
    lines = (folder / "generated-000000.seg").read_bytes().splitlines(keepends=True)
    (folder / "generated-000000.seg").write_bytes(b"".join(each for each in lines if b'"kind":"shadow"' not in each))
    result = run(folder, "--policy", place / "active.json")
    assert result.exit_code == 1
    assert "quality is not estimated" in result.output
