"""Encryption at rest, from the gateway's writer to SQL: nothing readable on any disk, and what keys do to readers."""

from __future__ import annotations

import base64
from pathlib import Path

import fsspec
import pytest

from policies.record import DecisionRecord, encode
from policies.traffic.folder import STORAGE, Storage, describe
from policies.traffic.reader import TrafficError, read
from policies.traffic.sql import QueryError, open_log
from router.config import ConfigError, LogConfig
from router.log.compaction import compact
from router.log.verify import verify
from router.metrics import Metrics
from router.segments import ask_to_rotate
from router.traffic_log import TrafficLog
from tests.traffic_records import decision, decision_id, judgement, write_segment

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))


def quiet(message: str) -> None:
    """Progress that nobody looks at."""


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_KEY", OLD)


def config(folder: Path, **options: object) -> LogConfig:
    return LogConfig.model_validate(
        {"dir": str(folder), "encryption_key_env": "LOG_KEY", "write_timeout_s": 5.0, **options}
    )


async def written(settings: LogConfig, *records: DecisionRecord) -> None:
    log = TrafficLog(settings, Metrics())
    log.check()
    await log.start()
    for record in records:
        assert await log.append(encode(record))
    await log.stop()


def ids(folder: Path) -> list[str]:
    return sorted(record.decision_id for record in read(folder))


@pytest.mark.parametrize("in_store", [False, True])
async def test_nothing_readable_is_on_any_disk_and_readers_see_no_difference(
    tmp_path: Path, store: str, in_store: bool
) -> None:
    folder = tmp_path / "log"
    settings = config(folder, store=store if in_store else "")
    await written(settings, decision(1), decision(2))
    assert ids(folder) == [decision_id(1), decision_id(2)]
    compact(folder, progress=quiet)
    await written(settings, decision(3))
    files = fsspec.filesystem("memory")
    stored = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    stored += [files.cat_file(path) for path in files.find(store)] if in_store else []
    assert not any(word in data for data in stored for word in (b"question", b"answer", b"long_reasoning", b"PAR1"))
    assert list(read(folder)) == [decision(1), decision(2), decision(3)]
    with open_log(folder) as log:
        assert list(log.decisions("completion LIKE 'answer%'")) == [decision(1), decision(2), decision(3)]
        with pytest.raises(QueryError, match="disabled by configuration"):
            log.query("SELECT * FROM read_parquet('locum://0/other.parquet')")
    assert verify(folder, lambda file, records: None)["sound"]


async def test_keys_are_rotated_and_what_the_old_one_wrote_stays_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(config(tmp_path), decision(1))
    compact(tmp_path, progress=quiet)
    await written(config(tmp_path), decision(2))
    monkeypatch.setenv("LOG_KEY", f"{NEW},{OLD}")
    await written(config(tmp_path), decision(3))
    assert len(ids(tmp_path)) == 3
    compact(tmp_path, progress=quiet)  # merges what both have written, under the new one
    monkeypatch.setenv("LOG_KEY", NEW)
    assert len(ids(tmp_path)) == 3
    with open_log(tmp_path) as log:
        assert log.count() == 3


async def test_log_that_was_plain_before_is_read_as_a_whole(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1)])
    compact(tmp_path, progress=quiet)
    write_segment(tmp_path, "b", [decision(2)])
    await written(config(tmp_path), decision(3))
    assert len(ids(tmp_path)) == 3
    with open_log(tmp_path) as log:
        assert log.count() == 3
    compact(tmp_path, progress=quiet)
    assert len(ids(tmp_path)) == 3


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "set LOG_KEY to its key"),
        (NEW, r"LOG_KEY does not hold the key [0-9a-f]{8} that a part of the log is encrypted with"),
        ("nonsense!", "LOG_KEY is not base64"),
    ],
)
async def test_missing_or_wrong_key_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, message: str, compacted: bool
) -> None:
    await written(config(tmp_path), decision(1))
    if compacted:
        compact(tmp_path, progress=quiet)
    if value is None:
        monkeypatch.delenv("LOG_KEY")
    else:
        monkeypatch.setenv("LOG_KEY", value)
    with pytest.raises(TrafficError, match=message):
        list(read(tmp_path))
    with pytest.raises(TrafficError, match=message), open_log(tmp_path):
        pass
    with pytest.raises(TrafficError, match=message):
        compact(tmp_path, progress=quiet)


async def test_folder_that_lost_its_description_says_what_is_missing(tmp_path: Path) -> None:
    await written(config(tmp_path), decision(1))
    (tmp_path / STORAGE).unlink()
    with pytest.raises(TrafficError, match="names no variable with the key"):
        list(read(tmp_path))


async def test_damaged_record_costs_itself_only(tmp_path: Path) -> None:
    await written(config(tmp_path), decision(1), decision(2), decision(3))
    (path,) = tmp_path.glob("*.seg")
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1][:60] + (b"A" if lines[1][60:61] != b"A" else b"B") + lines[1][61:]
    path.write_bytes(b"\n".join(lines))
    reading = read(tmp_path)
    assert [record.decision_id for record in reading] == [decision_id(1), decision_id(3)]
    assert [(each.place.line, each.cause) for each in reading.damage] == [(2, "the checksum does not fit")]


@pytest.mark.parametrize(
    ("options", "environ", "message"),
    [
        ({"encryption_key_env": "LOG_KEY"}, {}, "set LOG_KEY"),
        ({"encryption_key_env": "LOG_KEY"}, {"LOG_KEY": "short"}, "LOG_KEY"),
        ({"subject_key_env": "SUBJECTS"}, {}, "SUBJECTS is not set"),
        ({"subject_key_env": "SUBJECTS"}, {"SUBJECTS": "short"}, "fewer than 16 characters"),
    ],
)
def test_gateway_does_not_start_without_its_keys(
    tmp_path: Path, options: dict[str, str], environ: dict[str, str], message: str
) -> None:
    log = TrafficLog(LogConfig.model_validate({"dir": str(tmp_path), **options}), Metrics(), environ)
    with pytest.raises(ConfigError, match=message) as caught:
        log.check()
    assert not any(value in str(caught.value) for value in environ.values())


async def test_segment_is_let_go_of_when_somebody_asks(tmp_path: Path) -> None:
    log = TrafficLog(LogConfig(dir=str(tmp_path), fsync_interval_s=0.02, write_timeout_s=5.0), Metrics())
    await log.start()
    assert await log.append(encode(decision(1)))
    in_use = compact(tmp_path, progress=quiet).in_use
    assert len(in_use) == 1
    ask_to_rotate(tmp_path)
    while compact(tmp_path, progress=quiet).in_use == in_use:
        assert await log.append(encode(judgement(1, score=0.5)))
    await log.stop()
    assert decision_id(1) in ids(tmp_path)
    assert not (tmp_path / in_use[0]).exists()


async def test_empty_segment_stays_when_somebody_asks(tmp_path: Path) -> None:
    log = TrafficLog(LogConfig(dir=str(tmp_path)), Metrics())
    await log.start()
    before = list(tmp_path.glob("*.seg"))
    log._rotate()
    assert list(tmp_path.glob("*.seg")) == before
    await log.stop()


def test_environment_variables_are_named_and_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_SECRET", "very secret")
    describe(
        tmp_path,
        Storage(store="memory://x", store_secret_env={"secret": "STORE_SECRET"}, encryption_key_env="LOG_KEY"),
    )
    data = (tmp_path / STORAGE).read_text()
    assert "STORE_SECRET" in data
    assert not any(secret in data for secret in ("very secret", OLD))
