"""Encryption at rest: what is sealed comes back, only whole, only with its key, and no nonce twice."""

from __future__ import annotations

import base64
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.traffic.sealing import (
    CHUNK_BYTES,
    KEY_BYTES,
    Keyring,
    RecordSealer,
    SealedReader,
    SealedWriter,
    SealError,
    Tampered,
    escaped,
    unescaped,
)
from policies.traffic.segments import frame, payload_of
from tests.effort import examples

OLD, NEW, OTHER = (bytes([number]) * KEY_BYTES for number in (1, 2, 3))
payloads = st.lists(st.binary(max_size=200), min_size=1, max_size=6)


def ring(*keys: bytes) -> Keyring:
    return Keyring(list(keys), "LOG_KEY")


def sealed_file(data: bytes, keyring: Keyring, step: int = 1 << 20) -> bytes:
    target = io.BytesIO()
    writer = SealedWriter(target, keyring)
    for start in range(0, len(data), step):
        writer.write(data[start : start + step])
    writer.finish()
    return target.getvalue()


def reader(stored: bytes, keyring: Keyring | None) -> SealedReader:
    return SealedReader(lambda start, end: stored[start:end], len(stored), keyring, "a file")


@given(payloads)
def test_sealed_records_are_lines_that_open_alone_and_in_any_order(records: list[bytes]) -> None:
    seal = RecordSealer(ring(NEW))
    lines = [frame(seal(record)) for record in records]
    assert all(line.count(b"\n") == 1 for line in lines)
    opened = [payload_of(line, ring(OTHER, NEW)) for line in reversed(lines)]
    assert opened == list(reversed(records))


@given(st.binary(max_size=60), st.lists(st.sampled_from(b"\n}]J"), max_size=20).map(bytes))
def test_any_bytes_become_one_line_and_come_back(data: bytes, odd: bytes) -> None:
    for each in (data, odd, data + odd):
        assert b"\n" not in escaped(each)
        assert unescaped(escaped(each)) == each


@given(st.binary(min_size=20, max_size=60), st.data())
def test_changed_record_is_damage_even_with_a_fitting_checksum(record: bytes, data: st.DataObject) -> None:
    sealed = RecordSealer(ring(NEW))(record)
    raw = bytearray(unescaped(sealed[1:]))
    at = data.draw(st.integers(4, len(raw) - 1))  # the first four bytes name the key
    raw[at] ^= data.draw(st.integers(1, 255))
    assert payload_of(frame(b"~" + escaped(bytes(raw))), ring(NEW)) is None


def test_nonces_of_all_writers_and_records_differ() -> None:
    keyring = ring(NEW)
    sealers = [RecordSealer(keyring) for _ in range(20)]
    prefixes = {unescaped(sealer(b"the same")[1:])[:28] for _ in range(50) for sealer in sealers}
    assert len(prefixes) == 1000
    ciphertexts = {sealed_file(b"the same", keyring) for _ in range(50)}
    assert len(ciphertexts) == 50


def test_every_key_opens_and_the_first_one_writes() -> None:
    old, new = RecordSealer(ring(OLD))(b"a"), RecordSealer(ring(NEW, OLD))(b"b")
    both = ring(NEW, OLD)
    assert (both.opened(old), both.opened(new)) == (b"a", b"b")
    assert ring(NEW).opened(new) == b"b"
    with pytest.raises(SealError, match=r"LOG_KEY does not hold the key [0-9a-f]{8}"):
        ring(NEW).opened(old)
    with pytest.raises(SealError, match="encrypted"):
        payload_of(frame(old))


@settings(max_examples=examples(40))
@given(st.integers(0, 3 * CHUNK_BYTES + 5), st.integers(1, CHUNK_BYTES), st.data())
def test_sealed_file_is_read_at_any_place(size: int, step: int, data: st.DataObject) -> None:
    plain = bytes(number * 7 % 251 for number in range(256)) * (size // 256 + 1)
    plain = plain[:size]
    file = reader(sealed_file(plain, ring(NEW), step), ring(NEW))
    assert file.size == size
    for _ in range(5):
        start = data.draw(st.integers(0, size + 3))
        end = data.draw(st.integers(start, size + 10))
        assert file.read_at(start, end) == plain[start:end]


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 1])
def test_file_that_is_cut_swapped_or_changed_is_refused(size: int) -> None:
    plain = b"x" * size
    whole = sealed_file(plain, ring(NEW))
    chunk = CHUNK_BYTES + 16
    damaged = [whole[:-1], whole[:20], whole[:32], b"PAR1" + whole]
    if size > CHUNK_BYTES:
        damaged += [whole[: 32 + chunk], whole[:32] + whole[32 + chunk : 32 + 2 * chunk] + whole[32 : 32 + chunk]]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in (13, 30, 33, len(whole) - 1)]
    for stored in damaged:
        with pytest.raises(Tampered):
            reader(stored, ring(NEW)).read_at(0, size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "set LOG_KEY to its key"),
        ("not base64!", "LOG_KEY is not base64"),
        (base64.b64encode(b"short").decode(), "a key of 5 bytes instead of 32"),
        (f"{base64.b64encode(NEW).decode()},", "a key of 0 bytes"),
    ],
)
def test_wrong_key_is_told_by_the_name_of_its_variable(text: str, message: str) -> None:
    with pytest.raises(SealError, match=message) as caught:
        Keyring.from_environment("LOG_KEY", {"LOG_KEY": text})
    assert not text or text not in str(caught.value)
