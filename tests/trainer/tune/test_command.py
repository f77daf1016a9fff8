"""`locum tune` as an operator meets it: what it writes, prints, and how it ends."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from policies.base import RouteDecision, StudentDefaults
from policies.record import Draft
from policies.registry import build_all
from router.cli import main
from tests.trainer.tune.logs import FEATURES, Log, fill, run, run_json

LIMIT_BYTES = 2048


def test_files_are_written_that_the_policy_takes(log: Log, tmp_path: Path) -> None:
    fill(log)
    found = run_json(log, "--out", str(tmp_path / "tuned"), "--max-teacher-share", "0.25")
    assert (found["n"], found["n_paired"], found["student"]) == (200, 200, "s-0")
    assert not found["teacher_assumed_right"]
    assert found["student_accuracy"]["estimate"] == pytest.approx(0.8)
    assert found["teacher_accuracy"]["estimate"] == pytest.approx(0.95)
    assert 0.2 < found["share_on_rows"] <= 0.25
    assert found["auroc"] > 0.9
    assert found["predicted_accuracy"]["estimate"] > 0.9
    table = tomllib.loads((tmp_path / "tuned" / "cascade.toml").read_text())["routing"]["policies"][0]
    (reviewer,) = build_all([table], student=StudentDefaults(bundle_id="s-0")).reviewers
    escalates = reviewer.review(FEATURES, Draft(text="x", mean_logprob=-2.5))
    assert isinstance(escalates, RouteDecision)
    assert escalates.threshold == found["threshold"]
    assert not isinstance(reviewer.review(FEATURES, Draft(text="x", mean_logprob=-0.05)), RouteDecision)
    (other,) = build_all([table], student=StudentDefaults(bundle_id="s-1")).reviewers
    answer = other.review(FEATURES, Draft(text="x", mean_logprob=-2.5))
    assert answer is not None
    assert answer.reason == "other_student"


def test_report_says_what_was_measured_and_what_was_assumed(log: Log, tmp_path: Path) -> None:
    fill(log, pairs=False)
    log.answered("unlabelled", "x", route="student", mean_logprob=-0.2)
    log.answered("no logprob", "x", route="student", label="x")
    result = run(log, "--out", str(tmp_path / "tuned"))
    assert result.exit_code == 0
    for part in (
        "student s-0: 200 labelled answers", "left out: 1 answers of the student without a label", "left out: 1 answers labelled, but without a mean",
        "no sealed evaluation set was given", "taken to be 100 %", "student accuracy     80.0 %", "AUROC", "no guarantee",
        "[[routing.policies]]", 'type = "cascade"',
    ):  # fmt: skip
        assert part in result.output
    assert result.output.count("\n") < 45


def test_limits_that_contradict_each_other_end_with_1(log: Log, tmp_path: Path) -> None:
    fill(log)
    result = run(log, "--out", str(tmp_path / "t"), "--max-teacher-share", "0.02", "--max-quality-loss", "0.001")
    assert result.exit_code == 1
    assert "Allow more of one" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --registry"),
        (["--out", "a", "--registry", "."], "give --registry"),
        (["--out", "a", "--bundle", "b"], "--bundle: names a bundle of a registry"),
        (["--registry", ".", "--student", "b"], "--student: the bundle says"),
        (["--registry", "."], "has no current bundle"),
        (["--registry", ".", "--bundle", "x-000000000000"], "no bundle 'x-000000000000'"),
        (["--out", "a", "--purpose", "traffic,nonsense"], "--purpose: 'nonsense' is none of"),
        (["--out", "a", "--tag", "set"], "--tag: 'set' is not KEY=VALUE"),
        (["--out", "a", "--where", "nonsense = 1"], "nonsense"),
        (["--out", "a", "--exclude", "pyproject.toml"], "--exclude: pyproject.toml, line 1: "),
        (["--out", "a"], "--student: the labelled records are of several students.* s-0 (60), s-1 (60)"),
    ],
)
def test_wrong_input_ends_with_2_and_names_the_option(
    log: Log, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    fill(log, 60)
    fill(log, 60, student="s-1", start=100)
    result = run(log, *arguments)
    assert result.exit_code == 2, result.output
    for part in message.split(".*"):
        assert part.strip() in " ".join(result.output.split())
    assert not (tmp_path / "a").exists()


def test_help_is_the_one_on_file_with_an_example_and_the_exit_codes() -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["tune", "--help"])
    assert result.exit_code == 0
    golden = Path(__file__).with_name("help.txt")
    assert result.output == golden.read_text(), "if that is meant, write it again"
    for part in (
        "locum tune traffic --registry students",
        "Exit codes: 0 done; 1 too few labels",
        "--max-quality-loss",
    ):
        assert part in result.output


def test_folder_that_cannot_be_one_ends_with_2_and_is_named(log: Log, tmp_path: Path) -> None:
    fill(log)
    blocker = tmp_path / "file"
    blocker.write_text("")
    result = run(log, "--out", str(blocker / "tuned"))
    assert result.exit_code == 2
    assert "Not a directory" in result.output


def test_full_disk_ends_with_1_and_leaves_the_files_from_before(log: Log, tmp_path: Path) -> None:
    """The calibrator still fits, the report does not any more: a new calibrator beside an old threshold is wrong."""
    fill(log)
    out = tmp_path / "tuned"
    out.mkdir()
    names = ("calibrator.json", "cascade.toml", "tune.json")
    for name in names:
        (out / name).write_text("from before")

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # write(2) fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))

    run_json(log, "--out", str(tmp_path / "room"))
    sizes = {name: (tmp_path / "room" / name).stat().st_size for name in names}
    assert sizes["calibrator.json"] < LIMIT_BYTES < sizes["tune.json"], sizes
    command = [sys.executable, "-c", "from router.cli import main; main()", "tune", str(log.folder), "--out", str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=small_files)
    assert done.returncode == 1, done.stderr
    assert "File too large; nothing was written" in " ".join(done.stderr.split())
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(names, "from before")
