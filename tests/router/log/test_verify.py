"""`locum log verify`: what is damage, what is none, and where it is."""

from __future__ import annotations

import json
from pathlib import Path

from tests.router.log.running import run
from tests.traffic_records import NOON_S, decision, decision_id, write_segment


def test_sound_log_is_verified(log: Path) -> None:
    result = run("verify", log)
    assert result.exit_code == 0
    assert result.stdout.startswith("sound: 24 decisions and 4 judgements")


def test_torn_tail_is_no_damage_for_verify(log: Path) -> None:
    with (log / "b.seg").open("ab") as file:
        file.write(b"0123abcd {")
    assert run("verify", log).exit_code == 0


def test_verify_names_a_damaged_line(log: Path) -> None:
    path = log / "b.seg"
    path.write_bytes(path.read_bytes().replace(b"question 101", b"question 191"))
    result = run("verify", log, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["damaged"] == [{"file": "b.seg", "line": 2, "cause": "the checksum does not fit"}]
    assert "damaged: b.seg:2:" in run("verify", log).stdout


def test_verify_names_both_places_of_a_doubled_record(log: Path) -> None:
    write_segment(log, "c", [decision(100, created_s=NOON_S, route="student")])
    result = run("verify", log)
    assert result.exit_code == 1
    assert f"doubled: c.seg:1: {decision_id(100)} (first: b.seg:1)" in result.stdout


def test_verify_notices_a_changed_compacted_file(log: Path) -> None:
    path = next((log / "compacted").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-9] + b"X" + path.read_bytes()[-8:])
    result = run("verify", log)
    assert result.exit_code == 1
    assert path.name in result.stdout
