"""`locum log compact`, `prune`, `forget`, and compaction by itself: what they print and how they end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import pytest

from policies.traffic.folder import LogFolder
from policies.traffic.reader import read
from policies.traffic.survey import survey
from router.config import ConfigError, LogConfig
from router.config_file import parse
from router.log.background import BackgroundCompaction, check
from tests.router.log.running import CONFIG, run
from tests.traffic_records import DAY_S, decision, decision_id, judgement, write_segment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "traffic"
    now_s = time.time()
    records = [decision(n, created_s=now_s - n * DAY_S, tenant=f"t{n}", session="s") for n in range(1, 5)]
    write_segment(folder, "a", [*records, judgement(4, score=1.0, created_s=now_s)])
    return folder


def configured(folder: Path, rest: str = "") -> Path:
    path = folder.parent / "locum.toml"
    path.write_text(CONFIG.format(folder=folder, rest=rest))
    return path


def test_compaction_goes_to_the_store_of_the_configuration(folder: Path, tmp_path: Path) -> None:
    config = configured(folder, f'store = "file://{tmp_path}/store"')
    result = run("compact", "-c", config, "--json")
    assert (result.exit_code, json.loads(result.stdout)["records"]) == (0, 5)
    assert len(list((tmp_path / "store").rglob("*.parquet"))) == 5
    assert run("verify", folder).exit_code == 0
    assert len(list(read(folder))) == 5


def test_scheduled_compaction_applies_the_retention(folder: Path) -> None:
    config = configured(folder, "compact_every_s = 60.0\nretention_days = 2")
    result = run("compact", "-c", config, "--scheduled")
    assert result.exit_code == 0
    assert "5 records of 1 segments" in result.stdout
    assert "3 decisions, 1 feedback" in result.stdout
    assert [record.decision_id for record in read(folder)] == [decision_id(1)]


def test_prune_takes_its_days_from_the_option_or_the_configuration(folder: Path) -> None:
    assert run("prune", folder).exit_code == 2
    result = run("prune", folder, "--days", 3.5, "--json")
    assert (result.exit_code, json.loads(result.stdout)["removed"]) == (0, {"decisions": 1, "feedback": 1})
    config = configured(folder, "compact_every_s = 60.0\nretention_days = 1")
    assert "3 decisions" in run("prune", "-c", config).stdout
    assert list(read(folder)) == []


def test_forget_reports_what_it_did(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    result = run("forget", folder, "--tenant", "t2", "--runs", tmp_path / "runs", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["complete"], report["removed"]) == (0, True, {"decisions": 1})
    assert (report["chosen_by"], report["training_runs"]) == (["tenant"], [])
    result = run("forget", folder, "--decision-id", decision_id(4))
    assert "erased: 1 decisions, 1 feedback" in result.stdout
    assert "nothing of it is left" in result.stdout
    assert run("forget", folder, "--resume").exit_code == 0


def test_forget_that_is_not_complete_ends_with_1(folder: Path) -> None:
    path = folder / "a.seg"
    path.write_bytes(path.read_bytes().replace(b"question 3", b"question X"))
    result = run("forget", folder, "--tenant", "t1")
    assert result.exit_code == 1
    assert "a.seg: 1 damaged lines: cannot be read" in result.stdout
    assert run("forget", folder, "--resume", "--drop-damaged").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [["forget"], ["forget", "--resume", "--tenant", "x"], ["forget", "--subject", ""], ["forget", "--tenant", "t", "--runs", "no"],
     ["prune", "--days", "-1"]],
)  # fmt: skip
def test_wrong_input_ends_with_2(folder: Path, arguments: list[str]) -> None:
    assert run(arguments[0], folder, *arguments[1:]).exit_code == 2
    assert len(list(read(folder))) == 5


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ('store = "bucket/log"', "log.store: must be a URL"),
        ('store = "s3://key:secret@bucket/log"', "log.store: must be a URL without password"),
        ('store = "file://srv/log"', "log.store: must name the whole path"),
        ('store_options = {endpoint_url = "http://x"}', "log.store_options: has no effect"),
        ('store = "s3://b/l"\nstore_secret_env = {key = "hunter2!"}', "log.store_secret_env.key: must be the name"),
        ("retention_days = 30", "log.retention_days: is applied when the log is compacted"),
        ("compact_every_s = -1.0", "log.compact_every_s"),
        ('encryption_key_env = "c2VjcmV0"', "log.encryption_key_env: must be the name of an environment variable"),
    ],
)
def test_wrong_storage_is_told_by_its_key_and_without_secrets(tmp_path: Path, rest: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(CONFIG.format(folder=tmp_path, rest=rest))
    assert message in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("hunter2", "c2VjcmV0", "secret@"))


def test_variables_of_the_log_are_asked_for_before_anything_starts(tmp_path: Path) -> None:
    rest = 'store = "s3://b/l"\nstore_secret_env = {key = "S3_KEY"}\nencryption_key_env = "LOG_KEY"'
    unset = parse(CONFIG.format(folder=tmp_path, rest=rest)).unset_secrets({})
    assert [line.partition(":")[0] for line in unset] == ["log.encryption_key_env", "log.store_secret_env.key"]


@pytest.mark.system
async def test_log_is_compacted_by_a_process_of_the_lowest_priority(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    settings = LogConfig(dir=str(folder), compact_every_s=0.05)
    async with BackgroundCompaction(settings, configured(folder, "compact_every_s = 0.05")):
        async with asyncio.timeout(60):
            # Another process writes the files first and takes the segments away after.
            while list(folder.glob("*.seg")) or not survey(LogFolder(folder)).own.manifest.files:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert len(list(read(folder))) == 5


async def test_child_gets_only_the_time_that_nobody_wants_and_ends_with_the_gateway(tmp_path: Path) -> None:
    compaction = BackgroundCompaction(LogConfig(dir=str(tmp_path), compact_every_s=0.01), tmp_path / "locum.toml")
    pid_file = tmp_path / "pid"
    compaction._command = [
        sys.executable, "-c",
        f"import os, time, pathlib; time.sleep(0.3); pathlib.Path({str(pid_file)!r}).write_text("
        "f'{os.getpid()} {os.nice(0)} {os.sched_getscheduler(0)}'); time.sleep(60)",
    ]  # fmt: skip
    async with compaction, asyncio.timeout(30):
        while not pid_file.exists() or not pid_file.read_text():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
    pid, nice, scheduler = map(int, pid_file.read_text().split())
    assert (nice, scheduler) == (19, os.SCHED_IDLE)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_compaction_that_fails_is_told_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    compaction = BackgroundCompaction(LogConfig(dir=str(tmp_path), compact_every_s=0.01), tmp_path / "locum.toml")
    compaction._command = [sys.executable, "-S", "-c", "print('missing.toml'); raise SystemExit(2)"]
    async with compaction, asyncio.timeout(60):
        while caplog.text.count("the compaction ended with 2") < 2:  # noqa: ASYNC110 - written by a task
            await asyncio.sleep(0.02)
    assert "missing.toml" in caplog.text


def test_extra_that_compaction_needs_is_asked_for_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    check(LogConfig(compact_every_s=60.0))
    monkeypatch.setattr("router.log.background.find_spec", lambda name: None)
    check(LogConfig())
    with pytest.raises(ConfigError, match=r"log\.compact_every_s: needs duckdb: pip install 'locum\[loop\]'"):
        check(LogConfig(compact_every_s=60.0))
