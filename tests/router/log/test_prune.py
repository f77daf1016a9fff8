"""Retention: to the second, with the feedback, wherever records are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policies.traffic.compacted import FOLDER
from policies.traffic.folder import LogFolder, Storage, describe
from policies.traffic.reader import read
from policies.traffic.sql import open_log
from policies.traffic.stores import Conflict
from policies.traffic.survey import survey
from router.log import retention
from router.log.compaction import compact
from router.log.retention import prune
from router.segments import Segment
from tests.traffic_records import DAY_S, NOON_S, decision, judgement, shadow, write_segment


def quiet(message: str) -> None:
    """Progress that nobody looks at."""


def on_day(number: int, day: float, **fields: Any) -> Any:
    return decision(number, created_s=NOON_S + day * DAY_S, **fields)


def ids(folder: Path) -> list[str]:
    return sorted(record.decision_id for record in read(folder))


def expected(*numbers: int) -> list[str]:
    return sorted(decision(number).decision_id for number in numbers)


@pytest.mark.parametrize("place", ["segments", "folder", "store"])
def test_records_go_to_the_second_and_their_annotations_with_them(tmp_path: Path, store: str, place: str) -> None:
    describe(tmp_path, Storage(store=store if place == "store" else ""))
    write_segment(
        tmp_path,
        "a",
        [
            on_day(1, -3), on_day(2, -0.001), on_day(3, 0), on_day(4, 0.001), on_day(5, 2),
            judgement(1, score=1.0, created_s=NOON_S + DAY_S), shadow(2, created_s=NOON_S + 5), judgement(3, score=0.0),
            judgement(99, score=0.2, created_s=NOON_S - 1),
        ],
    )  # fmt: skip
    if place != "segments":
        compact(tmp_path, progress=quiet)
    done = prune(tmp_path, NOON_S, progress=quiet)
    assert done.removed["decisions"] == 2
    assert done.removed["feedback"] + done.removed["shadows"] == 3
    assert ids(tmp_path) == expected(3, 3, 4, 5)
    with open_log(tmp_path) as log:
        assert log.count() == 3
    if place != "segments":
        assert len(done.dropped) == 2
        assert {file.day for file in survey(LogFolder(tmp_path)).own.manifest.files} == {"2025-11-22", "2025-11-24"}
    again = prune(tmp_path, NOON_S, progress=quiet)
    assert not (+again.removed or again.dropped or again.rewritten or again.segments)


def test_annotations_of_a_record_that_another_instance_has_go_with_it(tmp_path: Path, store: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, records in ((here, [on_day(1, -2)]), (there, [judgement(1, score=1.0), on_day(2, 1)])):
        describe(folder, Storage(store=store))
        write_segment(folder, "a", records)
        compact(folder, progress=quiet)
    prune(here, NOON_S - DAY_S, progress=quiet)
    assert ids(here) == expected(2)


def test_replaced_files_are_removed_from_the_folder(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [on_day(1, -1), on_day(2, 0), on_day(3, 0.1)])
    compact(tmp_path, progress=quiet)
    prune(tmp_path, NOON_S + 1, progress=quiet)
    names = {path.name for path in (tmp_path / FOLDER).glob("*.parquet")}
    assert names == {file.name for file in survey(LogFolder(tmp_path)).own.manifest.files}
    assert len(names) == 1


def test_segment_that_a_gateway_writes_is_left_to_it(tmp_path: Path) -> None:
    from policies.record import encode
    from policies.traffic.segments import frame

    segment = Segment(tmp_path, 1_000_000)
    segment.prepare()
    segment.write(frame(encode(on_day(1, -5))))
    done = prune(tmp_path, NOON_S, progress=quiet)
    assert len(done.in_use) == 1
    segment.close()
    assert prune(tmp_path, NOON_S, progress=quiet).removed == {"decisions": 1}
    assert ids(tmp_path) == []


def test_crash_before_the_manifest_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_segment(tmp_path, "a", [on_day(1, 0), on_day(2, 0.1)])
    compact(tmp_path, progress=quiet)

    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(retention, "publish", crash)
    with pytest.raises(RuntimeError):
        prune(tmp_path, NOON_S + 60, progress=quiet)
    monkeypatch.undo()
    assert ids(tmp_path) == expected(1, 2)
    prune(tmp_path, NOON_S + 60, progress=quiet)
    assert ids(tmp_path) == expected(2)
    compact(tmp_path, progress=quiet)
    assert len(list((tmp_path / FOLDER).glob("*.parquet"))) == 1


def test_conflict_is_begun_again(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(tmp_path, Storage(store=store))
    write_segment(tmp_path, "a", [on_day(1, -3), on_day(2, 0)])
    compact(tmp_path, progress=quiet)
    publish, calls = retention.publish, 0

    def late(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Conflict("store")
        return publish(*arguments, **options)

    monkeypatch.setattr(retention, "publish", late)
    assert prune(tmp_path, NOON_S - DAY_S, progress=quiet).removed["decisions"] == 1
    assert ids(tmp_path) == expected(2)
