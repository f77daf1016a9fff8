"""Compaction: what it moves, what it leaves alone, and what a crash does to it."""

from __future__ import annotations

import fcntl
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from policies.traffic import stores
from policies.traffic.compacted import FOLDER, LOCK, read_manifest, write_manifest
from policies.traffic.reader import TrafficError, read
from policies.traffic.segments import SUFFIX
from router.log.compaction import compact
from router.segments import Segment
from tests.traffic_records import DAY_S, NOON_S, decision, judgement, write_segment


def quiet(message: str) -> None:
    """Progress that nobody looks at."""


def ids(folder: Path) -> list[str]:
    return sorted(record.decision_id for record in read(folder))


def parquet_files(folder: Path) -> set[str]:
    return {path.name for path in (folder / FOLDER).glob("*.parquet*")}


def test_days_become_files_sorted_by_time_and_segments_go(tmp_path: Path) -> None:
    records = [decision(number, created_s=NOON_S + (7 - number) * DAY_S / 4) for number in range(8)]
    write_segment(tmp_path, "a", records[:4])
    write_segment(tmp_path, "b", [*records[4:], judgement(1, score=0.5)])
    write_segment(tmp_path, "empty", [])
    done = compact(tmp_path, progress=quiet)
    assert (done.records, done.segments, done.left_alone) == (9, 3, [])
    assert not list(tmp_path.glob(f"*{SUFFIX}"))
    assert [(file.day, file.kind, file.rows) for file in read_manifest(tmp_path).files] == [
        ("2025-11-22", "decisions", 2),
        ("2025-11-22", "feedback", 1),
        ("2025-11-23", "decisions", 4),
        ("2025-11-24", "decisions", 2),
    ]
    assert list(read(tmp_path, kind="decisions")) == sorted(records, key=lambda record: record.created_s)


def test_later_records_of_a_day_are_merged_into_its_file(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1), decision(3)])
    compact(tmp_path, progress=quiet)
    write_segment(tmp_path, "b", [decision(2), decision(4, created_s=NOON_S + DAY_S)])
    compact(tmp_path, progress=quiet)
    assert list(read(tmp_path)) == [decision(1), decision(2), decision(3), decision(4, created_s=NOON_S + DAY_S)]
    assert parquet_files(tmp_path) == {file.name for file in read_manifest(tmp_path).files}
    assert compact(tmp_path, progress=quiet).records == 0


def test_segment_that_a_process_writes_is_left_to_it(tmp_path: Path) -> None:
    segment = Segment(tmp_path, 1_000_000)
    segment.prepare()
    (live,) = tmp_path.glob(f"*{SUFFIX}")
    write_segment(tmp_path, "a", [decision(1)])
    done = compact(tmp_path, progress=quiet)
    assert done.in_use == [live.name]
    assert live.exists()
    segment.close()
    assert compact(tmp_path, progress=quiet).in_use == []
    assert not live.exists()


def test_new_segment_is_opened_again_when_a_compaction_took_its_file_for_an_abandoned_one(tmp_path: Path) -> None:
    class Unlucky(Segment):
        tries = 0

        def _created(self) -> int | None:
            self.tries += 1
            if self.tries == 1:  # the file is locked by somebody else between its creation and its own lock
                return None
            return super()._created()

    segment = Unlucky(tmp_path, 1_000_000)
    segment.prepare()
    assert segment.descriptor >= 0
    assert segment.tries == 2
    segment.close()


def test_segments_with_damage_or_known_ids_stay_as_they_are(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1), decision(2)])
    compact(tmp_path, progress=quiet)
    restored = write_segment(tmp_path, "b", [decision(2), decision(3)])
    damaged = write_segment(tmp_path, "c", [decision(4), decision(5)])
    damaged.write_bytes(damaged.read_bytes().replace(b"question 4", b"question 9"))
    twice = write_segment(tmp_path, "d", [decision(6), decision(6)])
    write_segment(tmp_path, "e", [decision(7)])
    before = {path: path.read_bytes() for path in (restored, damaged, twice)}
    done = compact(tmp_path, progress=quiet)
    assert done.left_alone == ["b.seg", "c.seg", "d.seg"]
    assert done.records == 1
    assert {path: path.read_bytes() for path in before} == before
    assert ids(tmp_path) == [decision(number).decision_id for number in (1, 2, 3, 5, 6, 7)]


def test_torn_tail_of_a_killed_process_does_not_stop_a_compaction(tmp_path: Path) -> None:
    path = write_segment(tmp_path, "a", [decision(1), decision(2)])
    path.write_bytes(path.read_bytes()[:-3])
    assert compact(tmp_path, progress=quiet).records == 1
    assert ids(tmp_path) == [decision(1).decision_id]


def test_crash_before_the_manifest_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_segment(tmp_path, "a", [decision(1)])
    compact(tmp_path, progress=quiet)
    write_segment(tmp_path, "b", [decision(2)])

    def crash(*_: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(stores, "write_manifest", crash)
    with pytest.raises(RuntimeError):
        compact(tmp_path, progress=quiet)
    monkeypatch.undo()
    assert len(parquet_files(tmp_path)) == 2
    reading = read(tmp_path)
    assert Counter(record.decision_id for record in reading) == Counter(decision(n).decision_id for n in (1, 2))
    assert not reading.doubled
    compact(tmp_path, progress=quiet)
    assert len(parquet_files(tmp_path)) == 1
    assert ids(tmp_path) == [decision(n).decision_id for n in (1, 2)]


def test_crash_after_the_manifest_doubles_nothing(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1), judgement(1, score=1.0)])
    shutil.copytree(tmp_path, tmp_path / "copy")
    compact(tmp_path, progress=quiet)
    shutil.copy(tmp_path / "copy" / "a.seg", tmp_path / "a.seg")  # as if it had not been removed yet
    write_manifest(tmp_path / FOLDER, read_manifest(tmp_path))
    reading = read(tmp_path)
    assert list(reading) == [decision(1), judgement(1, score=1.0)]
    assert not reading.doubled
    compact(tmp_path, progress=quiet)
    assert not (tmp_path / "a.seg").exists()
    assert list(read(tmp_path)) == [decision(1), judgement(1, score=1.0)]


COMPACT = """
import sys
from pathlib import Path
from router.log.compaction import compact
print("ready", flush=True)
sys.stdin.readline()
compact(Path(sys.argv[1]), progress=lambda message: print(message, flush=True))
"""


@pytest.mark.system
def test_killed_compaction_neither_loses_nor_doubles_records(tmp_path: Path) -> None:
    """Killed at different steps; the log is whole after each of them."""
    expected = []
    for round_ in range(3):
        numbers = range(round_ * 100, round_ * 100 + 60)
        write_segment(tmp_path, f"{round_}", [decision(n, created_s=NOON_S + n * DAY_S / 80) for n in numbers])
        expected += [decision(n).decision_id for n in numbers]
        process = subprocess.Popen(
            [sys.executable, "-c", COMPACT, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        for _ in range(round_ + 1):
            process.stdout.readline()
        process.kill()
        process.communicate()
        assert ids(tmp_path) == sorted(expected)
    compact(tmp_path, progress=quiet)
    reading = read(tmp_path)
    assert sorted(record.decision_id for record in reading) == sorted(expected)
    assert not reading.doubled
    assert not list(tmp_path.glob(f"*{SUFFIX}"))


def test_files_stay_while_a_query_reads_them(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1)])
    compact(tmp_path, progress=quiet)
    (old,) = parquet_files(tmp_path)
    write_segment(tmp_path, "b", [decision(2)])
    with (tmp_path / FOLDER / LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        compact(tmp_path, progress=quiet)
        assert old in parquet_files(tmp_path)
    compact(tmp_path, progress=quiet)
    assert old not in parquet_files(tmp_path)
    assert len(ids(tmp_path)) == 2


def test_second_compaction_at_the_same_time_is_refused(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1)])
    compact(tmp_path, progress=quiet)
    with (tmp_path / FOLDER / "compacting").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TrafficError, match="another process"):
            compact(tmp_path, progress=quiet)


def test_only_the_owner_reads_compacted_texts(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1)])
    compact(tmp_path, progress=quiet)
    for path in (tmp_path / FOLDER).glob("*.parquet"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / FOLDER).stat().st_mode) == 0o700


def test_record_of_an_impossible_time_is_kept(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1, created_s=1e300), decision(2, created_s=-5.0)])
    compact(tmp_path, progress=quiet)
    assert {record.created_s for record in read(tmp_path)} == {1e300, -5.0}


LIMITED = """
import resource, sys
from pathlib import Path
from router.log.compaction import compact
resource.setrlimit(resource.RLIMIT_NOFILE, (140, int(sys.argv[2])))
done = compact(Path(sys.argv[1]), progress=lambda text: print(text))
print(done.segments)
"""


@pytest.mark.system
@pytest.mark.parametrize(("hard_limit", "expected"), [(140, [12, 12, 6]), (1024, [30])])
def test_more_segments_than_files_may_be_open_are_compacted(
    tmp_path: Path, hard_limit: int, expected: list[int]
) -> None:
    for number in range(30):
        write_segment(tmp_path, f"{number:02d}", [decision(number)])
    for segments in expected:
        command = [sys.executable, "-c", LIMITED, str(tmp_path), str(hard_limit)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        assert int(ended.stdout.splitlines()[-1]) == segments
    assert len(ids(tmp_path)) == 30
    assert not list(tmp_path.glob(f"*{SUFFIX}"))
