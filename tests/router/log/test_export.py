"""`locum log export`: every record once, and no half of a file."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from policies.record import Usage, decode
from tests.router.log.running import run
from tests.traffic_records import decision, write_segment


@pytest.mark.parametrize("where", [None, "route = 'student'"])
def test_export_holds_every_record_once(log: Path, tmp_path: Path, where: str | None) -> None:
    condition = [] if where is None else ["--where", where]
    lines, table = tmp_path / "out.jsonl", tmp_path / "out.parquet"
    assert run("export", log, "--out", lines, *condition).exit_code == 0
    assert run("export", log, "--out", table, *condition).exit_code == 0
    records = [decode(line) for line in lines.read_bytes().splitlines()]
    assert len({record.decision_id for record in records}) == len(records) == (24 if where is None else 8)
    assert {record.route for record in records} == ({"teacher", "student", None} if where is None else {"student"})
    assert [record.created_s for record in records] == sorted(record.created_s for record in records)
    rows = pyarrow.parquet.read_table(table).to_pylist()
    assert [row["decision_id"] for row in rows] == [record.decision_id for record in records]
    for row, record in zip(rows, records, strict=True):
        assert row["completion"] == record.completion
        assert row["request"] == record.request
        assert (row["usage"] and Usage(**row["usage"])) == record.usage
    assert lines.stat().st_mode & 0o077 == 0


def test_export_leaves_nothing_behind_when_the_condition_is_wrong(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("from before")
    assert run("export", log, "--out", out, "--where", "completion::INTEGER = 1").exit_code == 2
    assert out.read_text() == "from before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "traffic"]


def test_export_fails_and_leaves_the_old_file_when_the_disk_is_full(tmp_path: Path) -> None:
    folder = tmp_path / "traffic"
    write_segment(folder, "a", [decision(n, completion="x" * 4096) for n in range(100)])
    out = tmp_path / "out.jsonl"
    out.write_text("from before")

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # write(2) fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))

    command = [sys.executable, "-c", "from router.cli import main; main()", "log", "export", str(folder)]
    done = subprocess.run(
        [*command, "--out", str(out)], check=False, capture_output=True, text=True, preexec_fn=small_files
    )
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert out.read_text() == "from before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "traffic"]
