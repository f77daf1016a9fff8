"""Segments: whatever happens to the bytes, no record is invented, and none that is whole gets lost."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.record import decode_any, encode
from policies.traffic.sealing import MARK
from policies.traffic.segments import FRAME_OVERHEAD_BYTES, frame, read_segment, scan
from tests.effort import examples
from tests.traffic_records import decision, judgement

lines = st.binary(max_size=60).map(lambda data: data.replace(b"\n", b" ").replace(b"\0", b" "))
"""As in JSON: without line feeds and NUL."""
payloads = st.lists(lines.filter(lambda data: data[:1] != MARK), max_size=8)


def written(data: bytes, folder: str) -> Path:
    path = Path(folder) / "a.seg"
    path.write_bytes(data)
    return path


@given(payloads)
def test_what_is_framed_is_read_back(records: list[bytes]) -> None:
    with TemporaryDirectory() as folder:
        assert list(read_segment(written(b"".join(map(frame, records)), folder))) == records
    assert all(len(frame(record)) == len(record) + FRAME_OVERHEAD_BYTES for record in records)


@given(payloads, st.data())
def test_cut_costs_the_record_that_it_goes_through_and_no_other(records: list[bytes], data: st.DataObject) -> None:
    lines = [frame(record) for record in records]
    whole = b"".join(lines)
    end = data.draw(st.integers(0, len(whole)))
    complete = whole[:end].count(b"\n")
    with TemporaryDirectory() as folder:
        found = list(scan(written(whole[:end], folder)))
    assert [line.payload for line in found if line.payload is not None] == records[:complete]
    torn = bool(whole[:end]) and not whole[:end].endswith(b"\n")
    assert [line.fault for line in found if line.payload is None] == (["unfinished"] if torn else [])


@given(payloads.filter(bool), st.data())
def test_changed_byte_costs_no_record_of_another_line(records: list[bytes], data: st.DataObject) -> None:
    lines = [frame(record) for record in records]
    hit = data.draw(st.integers(0, len(lines) - 1))
    at = data.draw(st.integers(0, len(lines[hit]) - 2))  # not the line end: that would join two lines
    new = data.draw(st.integers(0, 255).filter(lambda byte: byte not in (lines[hit][at], 0x0A)))
    lines[hit] = lines[hit][:at] + bytes([new]) + lines[hit][at + 1 :]
    with TemporaryDirectory() as folder:
        found = list(scan(written(b"".join(lines), folder)))
    assert [line.payload for line in found] == [*records[:hit], None, *records[hit + 1 :]]
    assert found[hit].fault in ("checksum", "format")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=examples(50))
@given(texts, texts, st.dictionaries(texts, texts, max_size=3), st.floats(0, 1))
def test_records_survive_their_json(request: str, completion: str, tags: dict[str, str], score: float) -> None:
    record = decision(1, request=request, completion=completion, tags=tags)
    assert decode_any(encode(record)) == record
    assert b"\n" not in encode(record)
    feedback = judgement(1, score=score, correction=completion)
    assert decode_any(encode(feedback)) == feedback
