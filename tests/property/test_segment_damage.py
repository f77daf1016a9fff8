"""What happens to a disk after a segment was written: damage is found, and costs the records that it hits, no other."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from policies.traffic.segments import frame, scan
from router.segments import repair_torn_tails

payloads = st.lists(
    st.tuples(st.integers(0, 99), st.sampled_from(["", "deadbeef {", " 0123abcd {}", "x" * 40, "é\\u0000"])),
    min_size=1,
    max_size=8,
).map(lambda each: [f'{{"n":{number},"i":{index},"t":"{text}"}}'.encode() for index, (number, text) in enumerate(each)])


class Piece(NamedTuple):
    """A stretch of the damaged file, and where in the sound one it lay; None: it is new."""

    data: bytes
    origin: int | None


def flipped(whole: bytes, at: int, bit: int) -> list[Piece]:
    changed = bytes([whole[at] ^ 1 << bit])
    return [Piece(whole[:at], 0), Piece(changed, None), Piece(whole[at + 1 :], at + 1)]


def zeroed(whole: bytes, at: int, size: int) -> list[Piece]:
    end = min(len(whole), at + size)
    return [Piece(whole[:at], 0), Piece(bytes(end - at), None), Piece(whole[end:], end)]


def swapped(whole: bytes, first: int, second: int, size: int) -> list[Piece]:
    """Two blocks that do not overlap, in each other's place."""
    first, second = sorted((first, second))
    size = min(size, second - first, len(whole) - second)
    cuts = [0, first, first + size, second, second + size, len(whole)]
    a, b, c, d, e = (Piece(whole[start:end], start) for start, end in pairwise(cuts))
    return [a, d, c, b, e]


def untouched(pieces: list[Piece], payloads: list[bytes]) -> list[bytes]:
    """Records whose every byte, line end included, stands where it stood beside the others."""
    frames = [frame(payload) for payload in payloads]
    origins: list[int | None] = []
    for piece in pieces:
        origins += (
            [None] * len(piece.data) if piece.origin is None else range(piece.origin, piece.origin + len(piece.data))
        )
    place = {origin: index for index, origin in enumerate(origins) if origin is not None}
    sound, at = [], 0
    for payload, line in zip(payloads, frames, strict=True):
        start = place.get(at)
        if start is not None and origins[start : start + len(line)] == list(range(at, at + len(line))):
            sound.append(payload)
        at += len(line)
    return sound


def check(pieces: list[Piece], payloads: list[bytes]) -> None:
    """Damage is found; every untouched record is read once; what is read beside them is a record that was written."""
    data = b"".join(piece.data for piece in pieces)
    if data == b"".join(map(frame, payloads)):
        return  # blocks with the same bytes were swapped
    sound = untouched(pieces, payloads)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.seg"
        path.write_bytes(data)
        lines = list(scan(path))
        repair_torn_tails(Path(folder))
        after_start = [line.payload for line in scan(path) if line.payload is not None]
    read = Counter(line.payload for line in lines if line.payload is not None)
    assert not Counter(sound) - read, "a record that was not touched is lost"
    assert not read - Counter(payloads), "a record was invented or doubled"
    assert after_start == [line.payload for line in lines if line.payload is not None], (
        "a start of the gateway loses one"
    )
    if sum(read.values()) < len(payloads):
        assert any(line.fault for line in lines), "the damage is not found"


@given(payloads, st.data())
@example([b'{"n":0}', b'{"n":1}'], None)
def test_flipped_bit_is_found_and_costs_one_record_at_most(records: list[bytes], data: st.DataObject | None) -> None:
    whole = b"".join(map(frame, records))
    at, bit = (len(frame(records[0])) - 1, 0) if data is None else (data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7)))  # fmt: skip
    pieces = flipped(whole, at, bit)
    check(pieces, records)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.seg"
        path.write_bytes(b"".join(piece.data for piece in pieces))
        lines = list(scan(path))
    read = [line.payload for line in lines if line.payload is not None]
    hit = whole[:at].count(b"\n")
    line_end = whole[at : at + 1] == b"\n"
    assert read == (records if line_end else records[:hit] + records[hit + 1 :])
    assert any(line.fault for line in lines)


@given(payloads, st.data())
def test_zeroed_page_is_found_and_costs_the_records_in_it(records: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(map(frame, records))
    check(zeroed(whole, data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 90))), records)


@given(payloads, st.data())
def test_swapped_blocks_are_found_and_cost_the_records_that_they_cut(records: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(map(frame, records))
    first, second = (data.draw(st.integers(0, len(whole) - 1)) for _ in range(2))
    check(swapped(whole, first, second, data.draw(st.integers(1, 90))), records)


@given(payloads, st.data())
def test_cut_costs_the_last_record_and_is_no_damage(records: list[bytes], data: st.DataObject) -> None:
    """A process that was killed leaves the same: what was cut off at a line end cannot be told from what never was."""
    whole = b"".join(map(frame, records))
    end = data.draw(st.integers(0, len(whole)))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.seg"
        path.write_bytes(whole[:end])
        lines = list(scan(path))
        repair_torn_tails(Path(folder))
        assert path.read_bytes() == b"".join(map(frame, records[: whole[:end].count(b"\n")]))
    assert [line.payload for line in lines if line.payload is not None] == records[: whole[:end].count(b"\n")]
    assert [line.fault for line in lines if line.fault] == (
        ["unfinished"] if whole[end - 1 : end] != b"\n" and end else []
    )


@given(payloads, st.integers(16, 200))
def test_zeros_behind_the_last_record_are_damage_and_a_torn_ciphertext_is_not(records: list[bytes], size: int) -> None:
    whole = b"".join(map(frame, records))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.seg"
        for tail, fault in ((bytes(size), "format"), (b"0123abcd ~\x00\x01\x00\x00{\xff", "unfinished")):
            path.write_bytes(whole + tail)
            assert [line.fault for line in scan(path) if line.payload is None] == [fault]
