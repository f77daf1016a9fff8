"""Reading a traffic folder: segments, Parquet, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.quality.judgements import judgements
from policies.record import DecisionRecord, encode
from policies.traffic.compacted import FOLDER, MANIFEST, read_manifest
from policies.traffic.reader import IdSet, Place, TrafficError, decisions, read, shadows, snapshot
from policies.traffic.segments import frame, read_segment
from router.log.compaction import compact
from tests.traffic_records import decision, decision_id, judgement, shadow, write_segment


def ids(folder: Path) -> list[str]:
    return [record.decision_id for record in read(folder)]


def quiet(message: str) -> None:
    """Progress that nobody looks at."""


def test_records_and_feedback_of_all_segments_are_read_once_in_order(tmp_path: Path) -> None:
    write_segment(tmp_path, "b", [decision(2), judgement(1, score=1.0)])
    write_segment(tmp_path, "a", [decision(1)])
    reading = read(tmp_path)
    assert list(reading) == [decision(1), decision(2), judgement(1, score=1.0)]
    assert (reading.counts.decisions, reading.counts.feedback) == (2, 1)
    assert not reading.damage


def test_shadow_answers_are_apart_from_decisions_and_feedback_when_they_are_compacted(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1), shadow(1), judgement(1, score=1.0)])
    compact(tmp_path, progress=quiet)
    write_segment(tmp_path, "b", [decision(2), shadow(2, status="timeout"), shadow(1)])
    assert list(decisions(tmp_path)) == [decision(1), decision(2)]
    assert list(shadows(tmp_path)) == [shadow(1), shadow(2, status="timeout")]
    assert list(read(tmp_path, kind="feedback")) == [judgement(1, score=1.0)]
    reading = read(tmp_path)
    assert len(list(reading)) == 5
    assert (reading.counts.decisions, reading.counts.feedback, reading.counts.shadows) == (2, 1, 2)
    assert [each.place for each in reading.doubled] == [Place("b.seg", 3)]


def test_incomplete_last_line_is_no_damage_and_is_read_when_it_is_complete(tmp_path: Path) -> None:
    path = write_segment(tmp_path, "a", [decision(1)])
    line = frame(encode(decision(2)))
    with path.open("ab") as file:
        file.write(line[:-5])
        file.flush()
        reading = read(tmp_path)
        assert list(reading) == [decision(1)]
        assert reading.counts.unfinished == 1
        assert not reading.damage
        file.write(line[-5:])
    assert list(read(tmp_path)) == [decision(1), decision(2)]


def test_damaged_lines_are_named_and_reading_goes_on_behind_them(tmp_path: Path) -> None:
    path = write_segment(tmp_path, "a", [decision(number) for number in range(5)])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"question", b"questiom")
    lines[2] = b"\n"
    lines[3] = frame(b'{"some":"json"}')
    path.write_bytes(b"".join(lines))
    reading = read(tmp_path)
    assert list(reading) == [decision(0), decision(4)]
    assert [each.place for each in reading.damage] == [Place("a.seg", 2), Place("a.seg", 3), Place("a.seg", 4)]
    assert "checksum" in reading.damage[0].cause
    assert "not a record" in reading.damage[2].cause


def test_doubled_record_is_read_once_and_named(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1), judgement(1, score=1.0)])
    write_segment(tmp_path, "b", [decision(2), decision(1), judgement(1, score=1.0), judgement(1, score=0.5)])
    reading = read(tmp_path)
    assert len(list(reading)) == 4
    assert [(each.place, each.decision_id) for each in reading.doubled] == [
        (Place("b.seg", 2), decision_id(1)),
        (Place("b.seg", 3), decision_id(1)),
    ]


def test_compacted_records_are_read_with_those_that_came_later(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(2), decision(1), judgement(2, label="x")])
    compact(tmp_path, progress=quiet)
    write_segment(tmp_path, "b", [decision(3)])
    assert list(read(tmp_path)) == [decision(1), decision(2), judgement(2, label="x"), decision(3)]
    assert list(decisions(tmp_path)) == [decision(1), decision(2), decision(3)]
    assert list(read(tmp_path, kind="feedback")) == [judgement(2, label="x")]


def test_nothing_is_lost_or_doubled_when_a_compaction_ends_in_the_middle_of_a_reading(tmp_path: Path) -> None:
    for number in range(4):
        write_segment(tmp_path, f"{number}", [decision(10 * number), decision(10 * number + 1)])
    reading = read(tmp_path)
    records: Iterator[object] = iter(reading)
    first = next(records)
    compact(tmp_path, progress=quiet)
    rest = list(records)
    assert sorted(r.created_s for r in [first, *rest] if isinstance(r, DecisionRecord)) == sorted(
        decision(10 * number + k).created_s for number in range(4) for k in (0, 1)
    )
    assert not reading.doubled
    assert not reading.damage


def test_damaged_compacted_file_is_named(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1)])
    compact(tmp_path, progress=quiet)
    (file,) = read_manifest(tmp_path).files
    path = tmp_path / FOLDER / file.name
    path.write_bytes(path.read_bytes()[:-40])
    reading = read(tmp_path)
    assert list(reading) == []
    assert [each.place.file for each in reading.damage] == [f"{FOLDER}/{file.name}"]
    path.unlink()
    reading = read(tmp_path)
    assert list(reading) == []
    assert [each.cause for each in reading.damage] == ["the file is gone"]


@pytest.mark.parametrize("text", ["", "{", '{"schema":1,"files":[{}]}', '{"schema":99}'])
def test_unusable_manifest_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / MANIFEST).write_text(text)
    with pytest.raises(TrafficError, match=MANIFEST):
        read(tmp_path)


def test_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrafficError, match="does not exist"):
        read(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(TrafficError, match="not a folder"):
        snapshot(tmp_path / "file")


def test_newest_judgement_of_each_kind_counts(tmp_path: Path) -> None:
    write_segment(
        tmp_path,
        "a",
        [
            judgement(1, score=0.1, created_s=30.0),
            judgement(1, score=0.9, created_s=20.0),
            judgement(1, label="x", created_s=10.0, source="human"),
            judgement(2, score=0.5, tenant="somebody else"),
            judgement(3, score=0.5, correction="private", created_s=10.0),
        ],
    )
    judged = judgements(tmp_path)
    first = judged.of(decision(1))
    assert first is not None
    assert (first.score, first.label, first.correction, first.source) == (0.1, "x", None, "")
    assert judged.of(decision(2)) is None
    strict = judged.of(decision(3, capture="metadata"))
    assert strict is not None
    assert (strict.score, strict.correction) == (0.5, None)
    assert judged.of(decision(4)) is None


def test_ids_of_any_form_are_told_apart() -> None:
    ids_ = IdSet()
    names = [decision_id(number) for number in range(1000)] + ["", "a", "zz", "0G", "ABCD", "abcd", "ab\n", "é1"]
    assert all(ids_.add(name) for name in names)
    assert not any(ids_.add(name) for name in names)


def test_reading_a_segment_goes_on_behind_a_damaged_line(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    path.write_bytes(frame(b'{"n":1}') + frame(b'{"n":2}').replace(b"2", b"3", 1) + frame(b'{"n":4}'))
    assert list(read_segment(path)) == [b'{"n":1}', b'{"n":4}']
