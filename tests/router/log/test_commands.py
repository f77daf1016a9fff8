"""`locum log`: what the commands print and how they end."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from policies.traffic.segments import frame
from tests.router.log.running import CONFIG, run
from tests.traffic_records import decision, write_segment


def test_query_prints_json_csv_and_a_table(log: Path) -> None:
    sql = "SELECT route, count(*) AS n, sum(usage.prompt_tokens) AS tokens, any_value(usage) AS example FROM records WHERE route IS NOT NULL GROUP BY 1 ORDER BY 1"
    found = json.loads(run("query", log, sql, "--json").stdout)
    assert [(row["route"], row["n"], row["tokens"]) for row in found] == [("student", 8, 800), ("teacher", 15, 1500)]
    assert found[0]["example"]["completion_tokens"] == 10
    rows = list(csv.DictReader(io.StringIO(run("query", log, sql, "--csv").stdout)))
    assert [(row["route"], row["n"], row["tokens"]) for row in rows] == [
        ("student", "8", "800"),
        ("teacher", "15", "1500"),
    ]
    assert "student" in run("query", log, sql).stdout
    assert json.loads(run("query", log, "SELECT 1 WHERE false", "--json").stdout) == []


def test_query_that_is_wrong_or_not_a_select_ends_with_2(log: Path) -> None:
    for sql in ("SELECT nonsense FROM records", "DROP VIEW records", "SELECT * FROM read_text('/etc/passwd')"):
        result = run("query", log, sql)
        assert result.exit_code == 2, sql
        assert result.stderr.startswith("Error:")


def test_compact_says_what_it_left_alone(log: Path) -> None:
    path = write_segment(log, "c", [decision(300), decision(301)])
    path.write_bytes(path.read_bytes().replace(b"question 300", b"question 309"))
    result = run("compact", log, "--json")
    assert result.exit_code == 1
    summary = json.loads(result.stdout)
    assert (summary["records"], summary["segments"], summary["left_alone"]) == (13, 1, ["c.seg"])
    assert "left alone: c.seg" in result.stderr


def test_folder_comes_from_the_configuration(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "locum.toml"
    config.write_text(CONFIG.format(folder=log, rest=""))
    assert run("verify", "-c", config).exit_code == 0
    assert run("query", "-c", config, "SELECT count(*) FROM records", "--csv").stdout.split() == ["count_star()", "24"]
    monkeypatch.chdir(tmp_path)
    assert run("verify").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stats", "{nowhere}"], "does not exist"),
        (["verify"], "give the folder"),
        (["verify", "{log}", "-c", "x.toml"], "not both"),
        (["verify", "-c", "missing.toml"], "cannot be read"),
        (["query", "{log}"], "SQL statement"),
        (["query", "{log}", "SELECT", "1"], "quote the statement"),
        (["query", "{log}", "SELECT 1", "--json", "--csv"], "exclude"),
        (["export", "{log}", "--out", "records.txt"], ".jsonl or .parquet"),
        (["export", "{log}", "--out", "{nowhere}/a.jsonl"], "does not exist"),
        (["stats", "{log}", "--teacher-input-usd-per-1m", "1"], "go together"),
        (["stats", "{log}", "--escalated-share", "1"], "escalated-share"),
        (["query", "{log}", "SELECT 1", "--memory-limit", "much"], "memory"),
    ],
)
def test_wrong_input_ends_with_2_and_says_why(
    tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "traffic"
    write_segment(log, "a", [decision(1)])
    result = run(*(text.format(nowhere=tmp_path / "nowhere", log=log) for text in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_every_command_has_an_example() -> None:
    for name in ("stats", "query", "verify", "export", "compact"):
        assert "Example" in run(name, "--help").stdout


def test_damage_is_mentioned_by_the_commands_that_leave_it_out(log: Path) -> None:
    with (log / "b.seg").open("ab") as file:
        file.write(frame(b"{}"))
    result: Any = run("query", log, "SELECT count(*) FROM records", "--csv")
    assert result.exit_code == 0
    assert "1 damaged lines" in result.stderr
