"""`locum train run | status | verify` as an operator meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from policies.record import DecisionRecord
from router.cli import main
from tests.trainer.pipeline.conftest import FakeJudge

Make = Callable[..., DecisionRecord]
Tables = Callable[..., dict[str, Any]]


def toml(value: Any) -> str:
    return json.dumps(value)


def write_recipe(tmp_path: Path, tables: dict[str, Any]) -> Path:
    lines: list[str] = []
    later: list[str] = []
    for name, value in tables.items():
        if not isinstance(value, dict):
            lines.append(f"{name} = {toml(value)}")
            continue
        later.append(f"[{name}]")
        later += [f"{key} = {toml(each)}" for key, each in value.items() if not isinstance(each, dict)]
        for key, each in value.items():
            if isinstance(each, dict):
                later += [f"[{name}.{key}]", *(f"{inner} = {toml(v)}" for inner, v in each.items())]
    path = tmp_path / "recipe.toml"
    path.write_text("\n".join(lines + later) + "\n")
    return path


def locum(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


@pytest.fixture
def recipe_file(tmp_path: Path, tables: Tables, record: Make, write_log: Callable[..., Path]) -> Path:
    write_log(
        [record(i, f"How do I change the {word} of my account?", session=f"s{i}") for i, word in enumerate(WORDS)]
        + [record(50, purpose="eval"), record(51, distillation="denied"), record(52, "<script>alert(1)</script>")]
    )
    return write_recipe(tmp_path, tables())


WORDS = ("name", "email", "address", "currency", "password", "language", "picture", "phone number", "country", "limit")


def test_run_writes_the_data_and_a_funnel_without_texts(recipe_file: Path, tmp_path: Path) -> None:
    result = locum("run", "-c", recipe_file, "--to", "split", "--json")
    assert result.exit_code == 0, result.output
    stages = json.loads(result.stdout)["stages"]
    assert list(stages) == ["export", "consent", "quality", "dedupe", "decontaminate", "split"]
    assert stages["split"]["summary"]["train_rows"] + stages["split"]["summary"]["validation_rows"] == 11
    funnel = json.loads((tmp_path / "runs/test/funnel.json").read_text())
    assert funnel["rows_in"] == 13
    causes = {stage["name"]: {c["name"]: c["first_ids"] for c in stage["causes"]} for stage in funnel["stages"]}
    assert causes["export"] == {"purpose": ["d000050"]}
    assert causes["consent"] == {"denied": ["d000051"]}
    html = (tmp_path / "runs/test/funnel.html").read_text()
    assert "d000050" in html
    assert "my account" not in html
    assert "<script" not in html
    assert "http" not in html.replace("http://www.w3.org", "")
    again = locum("run", "-c", recipe_file, "--to", "split", "--json")
    assert json.loads(again.stdout) == json.loads(result.stdout)


def test_verify_finds_changed_missing_and_added_files(recipe_file: Path, tmp_path: Path) -> None:
    locum("run", "-c", recipe_file, "--to", "split")
    assert locum("verify", "-c", recipe_file).exit_code == 0
    run = tmp_path / "runs/test"
    changed = next(run.glob("consent/*/examples.parquet"))
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1  # of the same length
    changed.write_bytes(data)
    next(run.glob("quality/*/dropped.parquet")).unlink()
    (next(run.glob("split/*")) / "more.parquet").touch()
    next(run.glob("dedupe/*/stage.json")).write_text("{}")
    result = locum("verify", "-c", recipe_file, "--json")
    assert result.exit_code == 1
    problems = json.loads(result.stdout)["problems"]
    assert [each.rpartition(": ")[2] for each in problems] == [
        "its content changed", "missing", "missing or damaged", "was not there when the stage finished",
    ]  # fmt: skip


def test_status_says_how_far_it_got_and_writes_the_funnel_again(recipe_file: Path, tmp_path: Path) -> None:
    assert "nothing is finished yet" in locum("status", "-c", recipe_file, "--html").output
    locum("run", "-c", recipe_file, "--to", "consent")
    result = locum("status", "-c", recipe_file, "--json", "--html")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    states = {each["stage"]: each["state"] for each in found["stages"]}
    assert (states["consent"], states["quality"]) == ("finished", "pending")
    assert Path(found["funnel"]).is_file()
    assert "13 -> 12 rows" in locum("status", "-c", recipe_file).output


@pytest.mark.parametrize(
    ("table", "values", "message"),
    [
        ("dedupe", {"cosin": 1}, "dedupe.cosin"),
        ("train", {"alpha": 0.5}, "hard_loss_weight"),
        ("train", {"method": "cot"}, "'cot' is not built yet"),
        ("evaluate", {"sha256": "0" * 64}, "evaluate.sha256"),
        ("export", {"log_dir": "/nowhere"}, "export.log_dir"),
        ("quality", {"grader": "one_of"}, "quality.choices"),
        ("consent", {"accept_conditional": True}, "consent.reason"),
    ],
)
def test_wrong_recipe_exits_with_2_and_names_the_key(
    recipe_file: Path, tmp_path: Path, tables: Tables, table: str, values: dict[str, Any], message: str
) -> None:
    path = write_recipe(tmp_path, tables(**{table: values}))
    result = locum("run", "-c", path, "--to", "split")
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_filter_that_leaves_nothing_exits_with_1_and_says_what_to_change(
    recipe_file: Path, tmp_path: Path, tables: Tables
) -> None:
    path = write_recipe(tmp_path, tables(quality={"grader": "one_of", "choices": ["nothing"]}))
    result = locum("run", "-c", path, "--to", "split")
    assert result.exit_code == 1
    assert "quality: nothing is left of 11 rows" in result.output
    assert "quality.choices" in result.output


def _start(recipe_file: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from router.cli import main; main()", "train", "run", "-c", str(recipe_file)]
    command += ["--to", "split"]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _wait(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_run_goes_on_in_the_middle_of_a_stage(
    recipe_file: Path, tmp_path: Path, tables: Tables, judge: FakeJudge, number: signal.Signals
) -> None:
    endpoint = {"base_url": judge.base_url, "model": "judge", "concurrency": 2, "timeout_s": 20.0}
    path = write_recipe(tmp_path, tables(quality={"judge": endpoint}))
    judge.gate = threading.Semaphore(5)
    process = _start(path)
    scores = "runs/test/quality/*.partial/scores.jsonl"

    def five_are_scored() -> bool:
        return any(file.read_bytes().count(b"\n") == 5 for file in tmp_path.glob(scores))

    _wait(five_are_scored, process)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert "give the same command again" in errors
    assert not list(tmp_path.glob("runs/test/quality/*/stage.json"))
    silent, judge.gate = judge.gate, threading.Semaphore(1000)
    silent.release(10)
    before = len(judge.bodies)
    result = locum("run", "-c", path, "--to", "split", "--json")
    assert result.exit_code == 0, result.output
    assert len(judge.bodies) - before <= 6 + 2  # the eleven rows but the five, and what was in flight
    quality = json.loads(result.stdout)["stages"]["quality"]
    assert quality["resumed"]
    assert quality["summary"]["scores"]["5"] == 11
    assert locum("verify", "-c", path).exit_code == 0
