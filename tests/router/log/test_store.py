"""Compaction into stores: what arrives, what conflicts and crashes do to it, and what a mistake is told."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import pytest

from policies.traffic.compacted import FOLDER
from policies.traffic.folder import STORAGE, LogFolder, Storage, describe, read_storage
from policies.traffic.reader import TrafficError, read
from policies.traffic.segments import SUFFIX
from policies.traffic.sql import open_log
from policies.traffic.stores import Conflict, ObjectStore, StoreError, open_store
from policies.traffic.survey import survey
from router.log import compaction, workspace
from router.log.compaction import compact
from router.log.verify import verify
from tests.traffic_records import DAY_S, NOON_S, decision, judgement, shadow, write_segment


def quiet(message: str) -> None:
    """Progress that nobody looks at."""


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/store"
        return
    name = f"memory://log-{uuid.uuid4().hex}"
    yield name
    removed(name)


@pytest.fixture
def in_memory() -> Iterator[str]:
    name = f"memory://log-{uuid.uuid4().hex}"
    yield name
    removed(name)


def removed(name: str) -> None:
    files = fsspec.filesystem("memory")
    if files.exists(name):
        files.rm(name, recursive=True)


def folder_with(path: Path, url: str) -> Path:
    describe(path, Storage(store=url))
    return path


def ids(folder: Path) -> list[str]:
    return sorted(record.decision_id for record in read(folder, kind="decisions"))


def expected(*numbers: int) -> list[str]:
    return [decision(number).decision_id for number in numbers]


def test_log_is_read_alike_wherever_its_compacted_files_are(tmp_path: Path, url: str) -> None:
    folder = folder_with(tmp_path / "log", url)
    write_segment(folder, "a", [decision(1), decision(2, created_s=NOON_S + DAY_S), judgement(1, score=0.5)])
    compact(folder, progress=quiet)
    write_segment(folder, "b", [decision(3), shadow(1)])
    assert not list((folder / FOLDER).glob("*.parquet"))
    assert [record.decision_id for record in read(folder)] == [
        each.decision_id for each in (decision(1), judgement(1), decision(2), decision(3), shadow(1))
    ]
    with open_log(folder) as log:
        assert log.count() == 3
        assert [record.decision_id for record in log.decisions("completion = 'answer 2'")] == expected(2)
        _, rows = log.query("SELECT (SELECT count(*) FROM feedback), (SELECT count(*) FROM shadows)")
        assert list(rows) == [(1, 1)]
    found = verify(folder, lambda file, records: None)
    assert (found["sound"], found["decisions"], found["compacted_files"]) == (True, 3, 3)


def test_later_records_of_a_day_are_merged_into_its_file(tmp_path: Path, url: str) -> None:
    folder = folder_with(tmp_path / "log", url)
    for number in range(3):
        write_segment(folder, str(number), [decision(number)])
        compact(folder, progress=quiet)
    own = survey(LogFolder(folder)).own
    (file,) = own.manifest.files
    assert (file.rows, own.manifest.version) == (3, 3)
    assert ids(folder) == expected(0, 1, 2)


def test_several_gateways_share_a_store(tmp_path: Path, url: str) -> None:
    first, second = (folder_with(tmp_path / name, url) for name in ("one", "two"))
    write_segment(first, "a", [decision(1)])
    write_segment(second, "b", [decision(2)])
    compact(first, progress=quiet)
    compact(second, progress=quiet)
    assert read_storage(first).instance != read_storage(second).instance
    assert ids(first) == ids(second) == expected(1, 2)
    with open_log(first) as log:
        assert log.count() == 2


def test_files_from_before_the_store_are_still_read(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "log"
    write_segment(folder, "a", [decision(1)])
    compact(folder, progress=quiet)
    folder_with(folder, url)
    write_segment(folder, "b", [decision(2)])
    compact(folder, progress=quiet)
    assert ids(folder) == expected(1, 2)
    with open_log(folder) as log:
        assert log.count() == 2


def test_files_are_zstd_sorted_by_time_and_have_statistics(tmp_path: Path, in_memory: str) -> None:
    folder = folder_with(tmp_path, in_memory)
    write_segment(folder, "a", [decision(number) for number in (3, 1, 2)])
    compact(folder, progress=quiet)
    part = survey(LogFolder(folder)).own
    import pyarrow.parquet

    with fsspec.open(f"{part.store.label}/{part.manifest.files[0].name}") as file:
        parquet = pyarrow.parquet.ParquetFile(file)
        column = parquet.metadata.row_group(0).column(parquet.schema_arrow.names.index("created_s"))
        assert parquet.read(["created_s"])["created_s"].to_pylist() == [NOON_S + 1, NOON_S + 2, NOON_S + 3]
    assert column.compression == "ZSTD"
    assert (column.statistics.min, column.statistics.max) == (NOON_S + 1, NOON_S + 3)


def test_second_of_two_compactions_of_one_instance_begins_again(
    tmp_path: Path, in_memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was copied with its storage.json: the same instance on two machines."""
    folder = folder_with(tmp_path / "one", in_memory)
    twin = tmp_path / "two"
    shutil.copytree(folder, twin)
    write_segment(folder, "a", [decision(1)])
    write_segment(twin, "b", [decision(2)])
    stage = compaction.stage

    def meanwhile(*arguments: Any) -> None:
        monkeypatch.setattr(compaction, "stage", stage)
        compact(twin, progress=quiet)
        stage(*arguments)

    monkeypatch.setattr(compaction, "stage", meanwhile)
    said: list[str] = []
    compact(folder, progress=said.append)
    assert any("beginning again" in message for message in said)
    assert ids(folder) == expected(1, 2)
    assert not list(folder.glob(f"*{SUFFIX}"))
    assert not list(twin.glob(f"*{SUFFIX}"))


def test_manifest_that_is_there_is_never_put_again(in_memory: str) -> None:
    store = open_store(in_memory, {}, {}).inside("one")
    before = store.manifest()
    first = msgspec.structs.replace(before, version=1)
    store.publish(first, before)
    with pytest.raises(Conflict):
        store.publish(first, before)
    assert store.manifest() == first


class Race(ObjectStore):
    """Lists nothing of what others have put since."""

    def _numbers(self) -> list[int]:
        return []


def test_put_that_comes_between_listing_and_publishing_is_a_conflict(in_memory: str) -> None:
    store = open_store(in_memory, {}, {}).inside("one")
    before = store.manifest()
    store.publish(msgspec.structs.replace(before, version=1), before)
    files, root = fsspec.core.url_to_fs(f"{in_memory}/one")
    with pytest.raises(Conflict):
        Race(files, root, "late").publish(msgspec.structs.replace(before, version=1), before)


@pytest.mark.parametrize("step", ["write", "publish", "sweep"])
def test_crash_at_any_step_neither_loses_nor_doubles_a_record(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = folder_with(tmp_path / "log", url)
    write_segment(folder, "a", [decision(1), decision(2, created_s=NOON_S + DAY_S)])
    compact(folder, progress=quiet)
    write_segment(folder, "b", [decision(3), decision(4, created_s=NOON_S + DAY_S), judgement(1, score=1.0)])
    calls = 0

    def crash(*_: Any, **__: Any) -> Any:
        nonlocal calls
        calls += 1
        if step != "sweep" or calls > 2:  # the sweeps before the work may end
            raise RuntimeError("power cut")
        return []

    target = {
        "write": (workspace.Workspace, "write"),
        "publish": (compaction, "publish"),
        "sweep": (compaction, "sweep"),
    }
    monkeypatch.setattr(*target[step], crash)
    with pytest.raises(RuntimeError):
        compact(folder, progress=quiet)
    monkeypatch.undo()
    for _ in range(2):
        reading = read(folder)
        assert sorted(record.decision_id for record in reading) == sorted([*expected(1, 2, 3, 4), *expected(1)])
        assert not reading.doubled
        with open_log(folder) as log:
            assert log.count() == 4
        compact(folder, progress=quiet)
    assert not list(folder.glob(f"*{SUFFIX}"))


def test_replaced_files_stay_for_those_who_read_them_and_go_after_the_grace(tmp_path: Path, in_memory: str) -> None:
    folder = folder_with(tmp_path, in_memory)
    now_s = 1_000_000.0
    write_segment(folder, "a", [decision(1)])
    compact(folder, progress=quiet, now=lambda: now_s)
    (old,) = survey(LogFolder(folder)).own.manifest.files
    store = LogFolder(folder).own
    store.put("2020-01-01-decisions-left.parquet", b"of a compaction that was killed")
    write_segment(folder, "b", [decision(2)])
    compact(folder, progress=quiet, now=lambda: now_s)
    assert {old.name, "2020-01-01-decisions-left.parquet"} < set(store.names())
    compact(folder, progress=quiet, now=lambda: now_s + workspace.GRACE_S - 1)
    assert old.name in store.names()
    compact(folder, progress=quiet, now=lambda: now_s + workspace.GRACE_S)
    assert [name for name in store.names() if name.endswith(".parquet")] == [
        file.name for file in survey(LogFolder(folder)).own.manifest.files
    ]


def test_query_that_runs_while_files_are_replaced_ends(tmp_path: Path, in_memory: str) -> None:
    folder = folder_with(tmp_path, in_memory)
    write_segment(folder, "a", [decision(number) for number in range(50)])
    compact(folder, progress=quiet)
    with open_log(folder) as log:
        records = log.decisions()
        next(records)
        write_segment(folder, "b", [decision(100)])
        compact(folder, progress=quiet)
        assert len(list(records)) == 49


def test_file_that_is_gone_from_the_store_is_reported(tmp_path: Path, in_memory: str) -> None:
    folder = folder_with(tmp_path, in_memory)
    write_segment(folder, "a", [decision(1), decision(2, created_s=NOON_S + DAY_S)])
    compact(folder, progress=quiet)
    own = survey(LogFolder(folder)).own
    own.store.remove(own.manifest.files[0].name)
    reading = read(folder)
    assert [record.decision_id for record in reading] == expected(2)
    assert [(each.place.file, each.cause) for each in reading.damage] == [
        (own.place(own.manifest.files[0]), "the file is gone")
    ]


def test_query_over_a_store_reaches_nothing_else(tmp_path: Path, in_memory: str) -> None:
    folder = folder_with(tmp_path / "log", in_memory)
    write_segment(folder, "a", [decision(1)])
    compact(folder, progress=quiet)
    with fsspec.open(f"{in_memory}/secret.parquet", "wb") as file:
        file.write(b"PAR1")
    with open_log(folder) as log:
        for path in (f"{in_memory}/secret.parquet", "locum://0/../secret.parquet", "locum://0/other.parquet"):
            with pytest.raises(Exception, match="disabled by configuration"):
                log.query(f"SELECT * FROM read_parquet('{path}')")  # noqa: S608


def test_store_without_its_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_with(tmp_path, "s3://bucket/log")
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    write_segment(folder, "a", [decision(1)])
    with pytest.raises(TrafficError, match="pip install s3fs"):
        compact(folder, progress=quiet)
    with pytest.raises(TrafficError, match="pip install s3fs"):
        list(read(folder))


def test_wrong_scheme_options_and_missing_secrets_are_told(in_memory: str) -> None:
    with pytest.raises(StoreError, match="ftpx://"):
        open_store("ftpx://host/log", {}, {})
    with pytest.raises(StoreError, match=r"store_secret_env\.key: the environment variable STORE_KEY is not set"):
        open_store(in_memory, {}, {"key": "STORE_KEY"}, {})


def test_damaged_storage_file_is_told(tmp_path: Path) -> None:
    (tmp_path / STORAGE).write_text("{")
    with pytest.raises(TrafficError, match=r"storage\.json is damaged"):
        read(tmp_path)


def test_instance_is_given_once_and_stays(tmp_path: Path, in_memory: str) -> None:
    first = describe(tmp_path, Storage(store=in_memory))
    assert describe(tmp_path, Storage(store=in_memory)) == first
    assert describe(tmp_path, Storage(store=in_memory, encryption_key_env="KEY")).instance == first.instance
