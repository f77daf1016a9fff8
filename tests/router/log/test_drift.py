"""`locum log drift`: what it finds, prints and writes, and how it ends."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from policies.record import Grade, Usage
from router.log.drift import MAX_BUCKETS, Buckets
from tests.router.log.running import run
from tests.traffic_records import NOON_S, decision, shadow, write_segment


def records(first: int, n: int, **fields: Any) -> list[Any]:
    """One a second; answers of 30 to 69 tokens."""
    values = {"route": "student", "student": "s-1", "finish_reason": "stop", **fields}
    return [
        decision(number, **({"usage": Usage(prompt_tokens=9, completion_tokens=30 + number % 40)} | values))
        for number in range(first, first + n)
    ]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two workers; after 5,000 requests the answers are cut off. Only read, so one serves all tests."""
    folder = tmp_path_factory.mktemp("log") / "traffic"
    before, after = records(0, 5000), records(5000, 1500, finish_reason="length", completion="", tags={"team": "a"})
    write_segment(folder, "a", [*before[::2], *after[::2]])
    write_segment(folder, "b", [*before[1::2], *after[1::2]])
    chance = random.Random(1)
    write_segment(
        folder, "c",
        [shadow(n, student="s-1", predicted=0.1, created_s=NOON_S + n,
                grades=(Grade(grader="exact", student=float(chance.random() < 0.9), teacher=1.0),))
         for n in range(0, 5000, 8)],
    )  # fmt: skip
    return folder


def test_drift_finds_when_the_answers_changed(log: Path) -> None:
    result = run("drift", log, "--json")
    assert result.exit_code == 1
    figures = json.loads(result.stdout)
    assert figures["alarms"] == ["format"]
    assert figures["reference"]["requests"] >= 4000
    (began,) = figures["began"]
    assert NOON_S + 5000 < began["at_s"] < NOON_S + 6000
    assert figures["calibration"]["labels"] == 625
    assert figures["detectors"]["calibration"]["score"] < 1


def test_drift_prints_the_alarm_and_what_was_measured(log: Path) -> None:
    result = run("drift", log)
    assert "format" in result.output
    assert "ALARM" in result.output
    assert "625 graded answers: 10.0% wrong were expected" in result.output
    assert "compared requests: format" in result.output


def test_drift_is_silent_when_nothing_changed(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", records(0, 6500))
    result = run("drift", tmp_path)
    assert result.exit_code == 0
    assert "not measured" in result.output
    assert "ALARM" not in result.output


def test_drift_says_that_the_reference_is_not_complete(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", records(0, 300))
    result = run("drift", tmp_path)
    assert result.exit_code == 0
    assert "300 of 4,000 requests" in result.output


def test_reference_that_was_set_is_compared_with(log: Path, tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    last_1500 = ("--since", "2025-11-22T13:23:20")
    assert run("drift", log, *last_1500, "--set-reference", "--reference", path).exit_code == 0
    same = run("drift", log, *last_1500, "--reference", path, "--json")
    assert (same.exit_code, json.loads(same.stdout)["alarms"]) == (0, [])
    whole = json.loads(run("drift", log, "--reference", path, "--json").stdout)
    assert whole["reference"]["requests"] == 1500
    assert "format" in {each["detector"] for each in whole["began"]}


def test_reference_of_the_gateway_is_set_by_its_configuration(log: Path, tmp_path: Path) -> None:
    config = tmp_path / "locum.toml"
    config.write_text(
        f'[student]\nbase_url = "http://127.0.0.1:9/v1"\n[teacher]\nbase_url = "http://127.0.0.1:9/v1"\n'
        f'[log]\ndir = "{log}"\n[admin]\ndir = "{tmp_path}/admin"\n[quality.drift]\ntag = "team"\n'
    )
    assert run("drift", "-c", config, "--set-reference").exit_code == 0
    written = json.loads((tmp_path / "admin" / "drift-reference.json").read_text())
    assert (written["student"], written["tag"], written["reference"]["n"]) == ("s-1", "team", 6500)
    assert "question" not in json.dumps(written)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set-reference",), "needs --reference FILE"),
        (("--reference", "missing.json"), "there is no such file"),
        (("--set-reference", "--reference", "r.json", "--student", "nobody"), "holds no answered request"),
    ],
)
def test_drift_refuses_what_cannot_be(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("drift", log, *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_buckets_merge_when_a_log_is_long_and_lose_nothing() -> None:
    buckets = Buckets()
    for number in range(5000):
        buckets.at(NOON_S + 600.0 * number).summary.note(NOON_S + 600.0 * number)
    in_order = buckets.in_order()
    assert len(in_order) <= MAX_BUCKETS
    assert sum(bucket.summary.n for bucket in in_order) == 5000
    assert [b.summary.first_s for b in in_order] == sorted(b.summary.first_s for b in in_order)
