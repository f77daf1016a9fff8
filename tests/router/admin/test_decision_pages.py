"""Pages of decisions: every record once, newest first, whatever the log does meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.record import ShadowRecord
from policies.traffic.reader import TrafficError
from policies.traffic.segments import frame
from router.admin import backwards, compacted_days
from router.admin.decision_pages import DecisionLog, Position, Row
from router.admin.decisions import wanted_by
from router.log.compaction import compact
from tests.traffic_records import DAY_S, decision, decision_id, judgement, shadow, write_segment


def everything(row: Row, payload: bytes) -> bool:
    return True


def quiet(message: str) -> None:
    """Progress that nobody looks at."""


def pages(folder: Path, *, limit: int, between: Callable[[], object] = lambda: None) -> list[list[int]]:
    """The numbers of the records, page by page; `between` runs after each page."""
    log, found, after = DecisionLog(folder), [], None
    while True:
        page = log.page(everything, limit=limit, after=after)
        found.append([int(row["decision_id"][-8:], 16) for row in page.decisions])
        if page.next_cursor is None:
            return found
        after = Position.decoded(page.next_cursor)
        between()


def flat(found: list[list[int]]) -> list[int]:
    return [number for page in found for number in page]


def test_pages_merge_what_several_workers_write(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(number) for number in range(0, 300, 2)])
    write_segment(tmp_path, "b", [judgement(7, score=1.0), *(decision(number) for number in range(1, 300, 2))])
    found = pages(tmp_path, limit=7)
    assert flat(found) == list(range(299, -1, -1))
    assert {len(page) for page in found[:-1]} == {7}


def test_pages_go_on_in_compacted_days(tmp_path: Path) -> None:
    write_segment(tmp_path, "old", [decision(number, created_s=number * DAY_S / 4) for number in range(1, 30)])
    compact(tmp_path, progress=quiet)
    write_segment(tmp_path, "new", [decision(number) for number in range(40, 50)])
    assert flat(pages(tmp_path, limit=4)) == [*range(49, 39, -1), *range(29, 0, -1)]


def test_pages_give_each_record_once_when_segments_are_compacted_between_them(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(number, latency_s=number % 5) for number in range(60)])
    done = []

    def once() -> None:
        if not done:
            done.append(compact(tmp_path, progress=quiet))

    found = flat(pages(tmp_path, limit=9, between=once))
    assert sorted(found) == list(range(60))


def test_page_reads_what_is_left_when_a_compaction_takes_a_segment_from_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_segment(tmp_path, "a", [decision(number) for number in range(5)])
    real = backwards.newest_first

    def taken(*arguments: object, **options: object) -> object:
        monkeypatch.setattr("router.admin.decision_pages.newest_first", real)
        compact(tmp_path, progress=quiet)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("router.admin.decision_pages.newest_first", taken)
    assert flat(pages(tmp_path, limit=50)) == [4, 3, 2, 1, 0]


def test_page_passes_over_damage_and_the_line_that_is_being_written(tmp_path: Path) -> None:
    path = write_segment(tmp_path, "a", [decision(number) for number in range(3)])
    content = path.read_bytes().replace(b"question 1", b"question X")
    path.write_bytes(b"no line of a segment\n" + content + b'00000000 {"schema":1,')
    assert flat(pages(tmp_path, limit=50)) == [2, 0]


def test_page_ends_with_a_cursor_when_its_time_is_up(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(number) for number in range(1000)])
    ticks = iter(range(10_000))
    log = DecisionLog(tmp_path, clock=lambda: next(ticks))
    page = log.page(lambda row, payload: False, limit=10)
    assert page.decisions == []
    assert 0 < page.scanned < 1000
    assert page.next_cursor is not None


def test_order_is_restored_when_records_of_one_moment_were_written_in_any_order(tmp_path: Path) -> None:
    numbers = list(range(500))
    for start in range(0, 500, 50):
        part = numbers[start : start + 50]
        random.Random(start).shuffle(part)
        numbers[start : start + 50] = part
    write_segment(tmp_path, "a", [decision(number, created_s=number / 100) for number in numbers])
    assert flat(pages(tmp_path, limit=33)) == list(range(499, -1, -1))


@given(texts=st.lists(st.integers(0, 3000), max_size=40), block=st.integers(1, 400))
def test_lines_backwards_are_the_lines_of_the_file_reversed(
    tmp_path_factory: pytest.TempPathFactory, texts: list[int], block: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "lines"
    lines = [b"x" * length + b"\n" for length in texts]
    path.write_bytes(b"".join(lines) + b"unfinished")
    before = backwards.BLOCK_BYTES
    backwards.BLOCK_BYTES = block
    try:
        with path.open("rb") as file:
            assert list(backwards._lines_backwards(file, path.stat().st_size)) == lines[::-1]
    finally:
        backwards.BLOCK_BYTES = before


@pytest.mark.parametrize("compacted", [False, True])
def test_decision_is_found_with_what_was_learned_about_it(tmp_path: Path, compacted: bool) -> None:
    others = [judgement(3, score=0.1, tenant="foreign"), judgement(4, score=0.2)]
    write_segment(
        tmp_path, "a", [*(decision(number) for number in range(200)), judgement(3, score=0.9), shadow(3), *others]
    )
    if compacted:
        compact(tmp_path, progress=quiet)
    log = DecisionLog(tmp_path)
    rows = log.page(everything, limit=300).decisions
    (row,) = [row for row in rows if row["decision_id"] == decision_id(3)]
    for position in (None, Position.decoded(row["position"])):
        found = log.find(decision_id(3), position)
        assert found is not None
        assert found.record == decision(3)
        assert [type(each).__name__ for each in found.annotations] == ["FeedbackRecord", "ShadowRecord"]
        assert isinstance(found.annotations[1], ShadowRecord)
    assert log.find(decision_id(999)) is None


def test_texts_of_a_row_group_do_not_all_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compacted_days, "BATCH_BYTES", 10_000)
    monkeypatch.setattr(compacted_days, "BATCH_ROWS", 8)
    write_segment(tmp_path, "a", [decision(number, completion="x" * 1000) for number in range(200)])
    compact(tmp_path, progress=quiet)
    assert flat(pages(tmp_path, limit=30)) == list(range(199, -1, -1))


def test_segments_are_paged_without_the_extra_that_reads_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_segment(tmp_path, "a", [decision(1)])
    compact(tmp_path, progress=quiet)
    write_segment(tmp_path, "b", [decision(2)])

    def missing() -> object:
        raise compacted_days.ExtraMissing("compacted days need pyarrow")

    monkeypatch.setattr(compacted_days, "_parquet", missing)
    page = DecisionLog(tmp_path).page(everything, limit=10)
    assert [row["decision_id"] for row in page.decisions] == [decision_id(2)]
    assert page.problem == "compacted days need pyarrow"


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"route": "student"}, [2]),
        ({"route": "none"}, [3]),
        ({"policy": "long_reasoning", "reason": "multi_step"}, [4, 3, 2, 1]),
        ({"outcome": "timeout"}, [3]),
        ({"tag": "team"}, [4, 1]),
        ({"tag": "team=docs"}, [4]),
        ({"q": "ACME"}, [2]),
        ({"q": decision_id(1)[-4:]}, [1]),
        ({"q": "answer 4"}, []),
    ],
)
def test_filters_choose(tmp_path: Path, query: dict[str, str], numbers: list[int]) -> None:
    records = [
        decision(1, tags={"team": "billing"}),
        decision(2, route="student", tenant="acme"),
        decision(3, route=None, outcome="timeout"),
        decision(4, tags={"team": "docs"}),
    ]
    write_segment(tmp_path, "a", records)
    page = DecisionLog(tmp_path).page(wanted_by(query.get, with_texts=False), limit=10)
    assert [int(row["decision_id"][-8:], 16) for row in page.decisions] == numbers


def test_search_looks_into_texts_only_when_they_may_be_read(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(4)])
    log = DecisionLog(tmp_path)
    found = [
        len(log.page(wanted_by({"q": "Answer 4"}.get, with_texts=allowed), limit=9).decisions)
        for allowed in (True, False)
    ]
    assert found == [1, 0]


@pytest.mark.parametrize("text", ["", "x", "s.1", "d.nan.ab", "s.1e9.ab", "s.1.0.../../etc", "q.1.0.ab"])
def test_cursor_is_refused_when_it_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        Position.decoded(text)


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrafficError, match="does not exist"):
        DecisionLog(tmp_path / "nowhere").page(everything, limit=1)


def test_segment_of_another_format_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "a.seg").write_bytes(frame(b"[1, 2]") + frame(b'{"schema":99}'))
    assert flat(pages(tmp_path, limit=5)) == []
